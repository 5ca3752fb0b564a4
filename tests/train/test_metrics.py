import builtins
from pathlib import Path

import pytest

from kdcache.errors import MissingExtraError, RunMismatchError
from kdcache.train.metrics import MetricsLog, read_metrics


def test_lines_are_json_and_a_resumed_run_cuts_what_it_will_write_again(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path, tensorboard=False, size_bytes=0)
    log.write("step", 1, {"loss": 1.5})
    size = log.sync()
    log.write("step", 2, {"loss": 1.25})
    log.close()
    again = MetricsLog(tmp_path, tensorboard=False, size_bytes=size)
    again.write("step", 2, {"loss": 1.125})
    again.write("eval", 2, {"top1": 50.0})
    again.close()
    assert read_metrics(tmp_path, "step") == [
        {"kind": "step", "step": 1, "loss": 1.5},
        {"kind": "step", "step": 2, "loss": 1.125},
    ]
    assert read_metrics(tmp_path, "eval") == [{"kind": "eval", "step": 2, "top1": 50.0}]


def test_a_line_cut_by_a_crash_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_bytes(b'{"kind":"step","step":1}\n{"kind":"st')
    assert read_metrics(tmp_path, "step") == [{"kind": "step", "step": 1}]
    assert read_metrics(tmp_path / "nowhere", "step") == []


DAMAGED = b'{"kind":"step","step":1}\n{"kind":"step","st\xfd":2}\n{"kind":"step","step":3}\n'


@pytest.mark.parametrize("data", [DAMAGED, DAMAGED.replace(b'"st\xfd"', b"[" * 100_000)], ids=["a byte", "nested"])
def test_a_damaged_line_is_named(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "metrics.jsonl").write_bytes(data)
    with pytest.raises(RunMismatchError, match=r"metrics\.jsonl: line 2 is damaged"):
        read_metrics(tmp_path, "step")


def test_a_resumed_run_drops_a_damaged_line_and_counts_it(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_bytes(DAMAGED)
    log = MetricsLog(tmp_path, tensorboard=False, size_bytes=len(DAMAGED))
    log.write("step", 4, {})
    log.close()
    assert log.num_lost_bytes == len(DAMAGED.splitlines()[1]) + 1
    assert [entry["step"] for entry in read_metrics(tmp_path, "step")] == [1, 3, 4]


# TensorBoard's own protobuf code and numpy disagree about a deprecation; not ours to repair.
@pytest.mark.filterwarnings("ignore")
def test_tensorboard_events_are_written_beside(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = MetricsLog(tmp_path, tensorboard=True, size_bytes=0)
    log.write("step", 3, {"loss": 1.5, "name": "text"})
    log.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("step/loss")] == [(3, 1.5)]


def test_without_tensorboard_the_message_says_how(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def without(name: str, *rest: object) -> object:
        if "tensorboard" in name:
            raise ImportError(name)
        return original(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtraError, match=r"kdcache\[tensorboard\]"):
        MetricsLog(tmp_path, tensorboard=True, size_bytes=0)
