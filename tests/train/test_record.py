import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kdcache.errors import Remedy, RunMismatchError
from kdcache.methods.lift import lift
from kdcache.train import train
from kdcache.train.record import begin_run, versions
from tests.train.support import losses, tiny_run


def test_config_versions_and_commit_are_recorded_before_the_first_step(tmp_path: Path) -> None:
    begin_run(tmp_path / "run", tiny_run(), cache_digest="a" * 64, world_size=1)
    record = json.loads((tmp_path / "run" / "config.json").read_bytes())
    assert record["cache"] == "a" * 64
    assert record["config"]["method"]["name"] == "lift"
    assert set(record["versions"]) == {"kdcache", "numpy", "timm", "torch"}
    assert record["git_commit"] is None or len(record["git_commit"]) == 40


def test_the_same_run_goes_on_and_another_is_refused(tmp_path: Path) -> None:
    begin_run(tmp_path, tiny_run(), cache_digest="a" * 64, world_size=1)
    begin_run(tmp_path, tiny_run(), cache_digest="a" * 64, world_size=2)
    with pytest.raises(RunMismatchError, match=r"epochs: the run has 2, this command 3(.|\n)*Nothing was changed"):
        begin_run(tmp_path, tiny_run(epochs=3), cache_digest="a" * 64, world_size=1)
    with pytest.raises(RunMismatchError, match=r"optimizer.lr: the run has None, this command 0.1"):
        begin_run(tmp_path, tiny_run("optimizer.lr=0.1"), cache_digest="a" * 64, world_size=1)
    other = replace(tiny_run(), method=lift(teacher=("blocks.1/patch",), feature_weight=0.5))
    with pytest.raises(RunMismatchError, match=r"method.terms\[2\].weight: the run has 0.2, this command 0.5"):
        begin_run(tmp_path, other, cache_digest="a" * 64, world_size=1)
    with pytest.raises(RunMismatchError, match=r"cache: the run has aaaaaaaaaaaa…, this command bbbbbbbbbbbb…"):
        begin_run(tmp_path, tiny_run(), cache_digest="b" * 64, world_size=1)


def test_what_decides_no_number_may_differ(tmp_path: Path) -> None:
    """Each job of a queue unpacks the images elsewhere, on another machine; the images themselves are compared."""
    same: dict[str, Any] = {"cache_digest": "a" * 64, "world_size": 1}
    begin_run(tmp_path, tiny_run("eval.data=/scratch/1/val", "device=cpu"), **same, evaluation_digest="c" * 64)
    moved = tiny_run("eval.data=/scratch/2/val", "data.source=/scratch/2", "log_every=7", "data.num_threads=3")
    begin_run(tmp_path, moved, **same, evaluation_digest="c" * 64)
    # A finished run evaluates nothing more, and needs no images.
    begin_run(tmp_path, moved, **same, evaluation_digest=None)
    with pytest.raises(RunMismatchError, match=r"evaluation: the run has cccccccccccc…, this command dddddddddddd…"):
        begin_run(tmp_path, moved, **same, evaluation_digest="d" * 64)
    with pytest.raises(RunMismatchError, match=r"device: the run has cpu, this command cuda"):
        begin_run(tmp_path, moved, **same, evaluation_digest="c" * 64, device_type="cuda")
    with pytest.raises(RunMismatchError, match=r"eval\.every_epochs: the run has 1, this command 2"):
        begin_run(tmp_path, tiny_run("eval.every_epochs=2"), **same)


@pytest.mark.slow
def test_a_finished_run_takes_more_epochs(tiny_root: Path, tmp_path: Path) -> None:
    """The schedule is that of the longer run from there on, and the folder says what happened."""
    run, texts = tmp_path / "run", list[str]()
    train(tiny_root, run, tiny_run())
    first = losses(run)

    def show(kind: str, values: dict[str, Any]) -> None:
        if kind == "warning":
            texts.append(values["text"])
        if kind == "step" and values["step"] == 13:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tiny_root, run, tiny_run(epochs=4), on_event=show)
    rate = losses(run)[10]["lr"]
    assert [text for text in texts if "finished after 2 epochs and goes on to 4" in text and f"{rate:.3g}" in text]
    # Interrupted, it is a run of four epochs like any other.
    with pytest.raises(RunMismatchError, match="epochs: the run has 4, this command 2"):
        train(tiny_root, run, tiny_run(epochs=2))
    summary = train(tiny_root, run, tiny_run(epochs=4))
    assert (summary["epochs"], summary["steps"]) == (4, 20)
    assert losses(run)[:10] == first
    train(tiny_root, tmp_path / "whole", tiny_run(epochs=4))
    whole = losses(tmp_path / "whole")
    assert [each["lr"] for each in losses(run)][10:] == [each["lr"] for each in whole][10:]
    assert json.loads((run / "config.json").read_bytes())["extended"] == [2]
    assert train(tiny_root, run, tiny_run(epochs=4)) == summary
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(RunMismatchError, match="its checkpoints are gone"):
        train(tiny_root, run, tiny_run(epochs=5))


def test_other_versions_continue_a_run_only_where_that_is_accepted(
    tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(kind: str, values: dict[str, Any]) -> None:
        if kind == "step" and values["step"] == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tiny_root, tmp_path / "run", tiny_run(), on_event=stop)
    own = versions()
    newer = {**own, "numpy": "99.1"}
    monkeypatch.setattr("kdcache.train.record.versions", lambda: newer)
    with pytest.raises(
        RunMismatchError, match=f"versions.numpy: the run has '{own['numpy']}', this command '99.1'"
    ) as no:
        train(tiny_root, tmp_path / "run", tiny_run())
    assert no.value.remedy is Remedy.ACCEPT_VERSIONS
    train(tiny_root, tmp_path / "run", tiny_run(), accept_versions=True)
    record = json.loads((tmp_path / "run" / "config.json").read_bytes())
    assert (record["versions"], record["later_versions"]) == (own, [newer])
