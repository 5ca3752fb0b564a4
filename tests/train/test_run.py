from pathlib import Path

import pytest
import torch

from kdcache.errors import CacheBusyError, KdcacheError, RunMismatchError
from kdcache.train import train
from kdcache.train.checkpoint import Checkpoints, checkpoint_paths
from kdcache.train.folder import lock_run, read_summary
from kdcache.train.metrics import read_metrics
from kdcache.train.trainer import Trainer
from tests.train.support import losses, tiny_run


def poisoned(monkeypatch: pytest.MonkeyPatch, *, at_step: int) -> None:
    """The weights become NaN in the middle of a step, as an unstable learning rate makes them."""
    step = Trainer.step

    def broken(self: Trainer, batch: object, number: int) -> object:
        result = step(self, batch, number)
        if number == at_step:
            with torch.no_grad():
                next(self.student.parameters()).fill_(float("nan"))
        return result

    monkeypatch.setattr(Trainer, "step", broken)


def test_weights_that_are_not_finite_end_a_run_shorter_than_a_line_of_its_log(
    tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poisoned(monkeypatch, at_step=4)
    with pytest.raises(KdcacheError, match=r"weights after step 5 are not finite.*; no checkpoint was written before"):
        train(tiny_root, tmp_path, tiny_run("epochs=1", "log_every=100"))
    assert checkpoint_paths(tmp_path) == [] and read_summary(tmp_path) is None
    assert not (tmp_path / "student.safetensors").exists()


def test_the_last_good_checkpoint_is_kept_and_named(
    tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ("log_every=100", "checkpoint.every_steps=1", "checkpoint.keep=1")
    with monkeypatch.context() as patch:
        poisoned(patch, at_step=2)
        with pytest.raises(KdcacheError, match=r"step 3 .*the last good one is .*step-000000002\.pt"):
            train(tiny_root, tmp_path, tiny_run(*settings))
    assert [path.name for path in checkpoint_paths(tmp_path)] == ["step-000000002.pt"]
    # Without the cause the same run ends well, and as one that never had it.
    train(tiny_root, tmp_path, tiny_run(*settings))
    train(tiny_root, tmp_path / "whole", tiny_run(*settings))
    one, two = (torch.load(checkpoint_paths(each)[-1])["trainer"]["model"] for each in (tmp_path, tmp_path / "whole"))
    assert all(torch.equal(one[name], two[name]) for name in two)


def test_a_loss_that_is_not_finite_is_not_saved(
    tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Trainer.step

    def broken(self: Trainer, batch: object, number: int) -> object:
        terms, rate = step(self, batch, number)
        return {name: value * float("inf") for name, value in terms.items()}, rate

    monkeypatch.setattr(Trainer, "step", broken)
    with pytest.raises(KdcacheError, match="loss of step 5 is not finite"):
        train(tiny_root, tmp_path, tiny_run("epochs=1", "log_every=100"))
    assert checkpoint_paths(tmp_path) == []


def test_a_second_process_is_refused_at_once(tiny_root: Path, tmp_path: Path) -> None:
    with (
        lock_run(tmp_path, "other"),
        pytest.raises(CacheBusyError, match=r"another job trains in this folder \(host .*, pid \d+"),
    ):
        train(tiny_root, tmp_path, tiny_run("epochs=1"))
    assert not (tmp_path / "config.json").exists() and not (tmp_path / "metrics.jsonl").exists()
    # The lock went with its holder.
    train(tiny_root, tmp_path, tiny_run("epochs=1"))
    with lock_run(tmp_path, "third"):
        pass


@pytest.mark.parametrize("left", ["nothing", "two lines and a half"])
def test_a_lost_log_is_started_again_and_that_is_reported(
    tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: str
) -> None:
    config = tiny_run("epochs=2")
    save, stops = Checkpoints.save, [5]

    def crash(self: Checkpoints, step: int, state: dict[str, object]) -> Path:
        path = save(self, step, state)
        if step in stops:
            raise KeyboardInterrupt
        return path

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", crash)
        with pytest.raises(KeyboardInterrupt):
            train(tiny_root, tmp_path, config)
    log = tmp_path / "metrics.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    assert len(lines) == 5
    log.write_bytes(b"".join(lines[:2]) + lines[2][:10]) if left != "nothing" else log.unlink()
    events: list[str] = []
    train(tiny_root, tmp_path, config, on_event=lambda kind, values: events.append(str(values.get("text"))))
    assert any("metrics.jsonl" in text and "lost" in text for text in events)
    assert b"\0" not in log.read_bytes()
    steps = [entry["step"] for entry in read_metrics(tmp_path, "step")]
    assert steps == ([] if left == "nothing" else [1, 2]) + [6, 7, 8, 9, 10]
    assert len(losses(tmp_path)) == len(steps)


def test_ranks_that_differ_are_refused(monkeypatch: pytest.MonkeyPatch, tiny_root: Path, tmp_path: Path) -> None:
    import kdcache.train.loop as loop

    def other_rank(value: dict[str, object], env: object) -> list[dict[str, object]]:
        return [value, {**value, "cache": "b" * 64, "config": {**value["config"], "seed": 7}}]

    monkeypatch.setattr(loop, "gather_values", other_rank)
    with pytest.raises(RunMismatchError, match=r"rank 1 .*(.|\n)*seed: rank 0 has 0, rank 1 has 7(.|\n)*cache:"):
        train(tiny_root, tmp_path, tiny_run("epochs=1"))
    assert not (tmp_path / "config.json").exists()
