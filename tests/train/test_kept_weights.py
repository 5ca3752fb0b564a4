import hashlib
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

import kdcache.train.run
from kdcache import durable
from kdcache.cli.remedies import error_text
from kdcache.errors import InterruptedRunError, RunMismatchError, UsageError
from kdcache.train import train
from kdcache.train.evaluate import Accuracy
from kdcache.train.folder import load_student, read_summary
from kdcache.train.kept_weights import (
    BEST_WEIGHTS,
    check_milestones,
    kept_names,
    milestone_name,
    milestones,
    weights_name,
)
from kdcache.train.metrics import read_metrics
from tests.train.support import losses, tiny_run

# Of four epochs; the best of them comes twice.
TOP1 = (10.0, 30.0, 20.0, 30.0)
SETTINGS = ("eval.data=digits:test", "checkpoint.milestone_every=2", "checkpoint.keep=1", "epochs=4")


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the loop can catch it."""


@pytest.fixture(scope="module")
def scores() -> dict[str, float]:
    """Top-1 by the weights it is of: those of the first run in order, which all others must meet again."""
    return {}


@pytest.fixture(autouse=True)
def _scored(scores: dict[str, float], monkeypatch: pytest.MonkeyPatch) -> None:
    def evaluate(student: torch.nn.Module, *_: Any, **__: Any) -> Accuracy:
        digest = hashlib.sha256()
        for value in student.state_dict().values():
            digest.update(value.numpy().tobytes())
        if len(scores) < len(TOP1):
            scores.setdefault(digest.hexdigest(), TOP1[len(scores)])
        return Accuracy(scores[digest.hexdigest()], 100.0, 360, 0)

    monkeypatch.setattr(kdcache.train.run, "evaluate", evaluate)


@pytest.fixture
def _no_hook() -> Iterator[None]:
    yield
    durable.on_step = None


@pytest.fixture(scope="module")
def whole(tiny_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where an uninterrupted run goes; `trained` fills it."""
    return tmp_path_factory.mktemp("kept") / "whole"


@pytest.fixture
def trained(whole: Path, tiny_root: Path) -> Path:
    train(tiny_root, whole, tiny_run(*SETTINGS))
    return whole


def weights(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.safetensors"))}


def test_best_and_milestones_are_kept_and_named(trained: Path) -> None:
    assert list(weights(trained)) == [
        BEST_WEIGHTS,
        "student-epoch-2.safetensors",
        "student-epoch-4.safetensors",
        "student.safetensors",
    ]
    assert list(milestones(trained)) == [2, 4], "never pruned by keep=1"
    summary = read_summary(trained)
    assert summary is not None
    assert (summary["top1"], summary["best_top1"], summary["best_epoch"]) == (30.0, 30.0, 2)
    found = weights(trained)
    assert found[BEST_WEIGHTS] == found["student-epoch-2.safetensors"], "the first of two equals"
    assert found["student.safetensors"] == found["student-epoch-4.safetensors"] != found[BEST_WEIGHTS]
    best, *_ = load_student(trained, weights=weights_name(trained, "best"))
    for name, value in safetensors.torch.load_file(trained / milestone_name(2)).items():
        assert torch.equal(best.model.state_dict()[name], value)


@pytest.mark.parametrize(
    ("name", "step"),
    [
        (BEST_WEIGHTS, "written"),
        (BEST_WEIGHTS, "fsynced"),
        (BEST_WEIGHTS, "renamed"),
        ("student-epoch-2.safetensors", "written"),
        ("step-000000010.pt", "fsynced"),
        ("step-000000010.pt", "committed"),
        ("step-000000015.pt", "committed"),
    ],
)
@pytest.mark.usefixtures("_no_hook")
@pytest.mark.slow
def test_killed_at_any_moment_a_rerun_keeps_the_same(
    trained: Path, tiny_root: Path, tmp_path: Path, name: str, step: str
) -> None:
    calls: list[None] = []

    def kill(found: str, path: Path) -> None:
        # Twice, for the best weights are written after the first epoch too.
        if (path.name, found) == (name, step):
            calls.append(None)
            if len(calls) == 1 + (name == BEST_WEIGHTS):
                raise Killed

    durable.on_step = kill
    with pytest.raises(Killed):
        train(tiny_root, tmp_path / "cut", tiny_run(*SETTINGS))
    durable.on_step = None
    train(tiny_root, tmp_path / "cut", tiny_run(*SETTINGS))
    assert weights(tmp_path / "cut") == weights(trained)
    assert losses(tmp_path / "cut") == losses(trained)
    cut, first = read_summary(tmp_path / "cut"), read_summary(trained)
    assert cut is not None
    assert first is not None
    assert (cut["best_top1"], cut["best_epoch"]) == (first["best_top1"], first["best_epoch"])


@pytest.mark.parametrize("step", [10, 20])
@pytest.mark.slow
def test_a_signal_after_the_last_step_of_an_epoch_skips_no_evaluation(
    trained: Path, tiny_root: Path, tmp_path: Path, step: int
) -> None:
    def interrupt(kind: str, values: dict[str, Any]) -> None:
        if kind == "step" and values["step"] == step:
            os.kill(os.getpid(), signal.SIGTERM)

    previous = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        with pytest.raises(InterruptedRunError):
            train(tiny_root, tmp_path / "cut", tiny_run(*SETTINGS), on_event=interrupt)
    finally:
        signal.signal(signal.SIGTERM, previous)
    train(tiny_root, tmp_path / "cut", tiny_run(*SETTINGS))
    evals = [
        [(each["epoch"], each["top1"]) for each in read_metrics(run, "eval")] for run in (tmp_path / "cut", trained)
    ]
    assert evals[0] == evals[1]
    assert [top1 for _, top1 in evals[0]] == list(TOP1)
    assert weights(tmp_path / "cut") == weights(trained)


def test_an_interrupted_run_shows_its_best_so_far(tiny_root: Path, tmp_path: Path, trained: Path) -> None:
    def stop(kind: str, values: dict[str, Any]) -> None:
        if kind == "step" and values["step"] == 13:
            raise Killed

    with pytest.raises(Killed):
        train(tiny_root, tmp_path / "cut", tiny_run(*SETTINGS), on_event=stop)
    student, *_ = load_student(tmp_path / "cut", weights=weights_name(tmp_path / "cut", "best"))
    expected = safetensors.torch.load_file(trained / BEST_WEIGHTS)
    assert all(torch.equal(value, expected[name]) for name, value in student.model.state_dict().items())
    with pytest.raises(RunMismatchError, match="not the folder of a finished run"):
        load_student(tmp_path / "cut")


def test_weights_that_are_not_kept_are_refused(trained: Path, tiny_root: Path, tmp_path: Path) -> None:
    assert weights_name(trained, "last") == "student.safetensors"
    assert weights_name(trained, "epoch-4") == "student-epoch-4.safetensors"
    with pytest.raises(RunMismatchError, match=r"epoch-3.safetensors: no such file; .*: epoch-2, epoch-4$"):
        weights_name(trained, "epoch-3")
    with pytest.raises(RunMismatchError, match="ema_decay"):
        weights_name(trained, "ema")
    with pytest.raises(UsageError, match=r"choose from last, best, ema, or epoch-N"):
        weights_name(trained, "epoch-0")
    copy = Path(shutil.copytree(trained, tmp_path / "copy"))
    (copy / BEST_WEIGHTS).unlink()
    with pytest.raises(RunMismatchError, match="evaluates the student while it trains") as caught:
        weights_name(copy, "best")
    assert "train with `--eval-data`, or choose `--weights last`" in error_text(caught.value)
    with pytest.raises(RunMismatchError, match="milestones of this run: none"):
        weights_name(tmp_path / "nowhere", "epoch-1")
    train(tiny_root, tmp_path / "blind", tiny_run())
    assert list(weights(tmp_path / "blind")) == ["student.safetensors"]
    assert "best_epoch" not in (read_summary(tmp_path / "blind") or {})


def test_milestones_beyond_the_run_are_refused(tiny_root: Path, tmp_path: Path) -> None:
    check_milestones(tiny_run("checkpoint.milestone_every=2"))
    with pytest.raises(UsageError, match=r"milestone_every=3 keeps nothing in a run of 2 epochs"):
        train(tiny_root, tmp_path / "run", tiny_run("checkpoint.milestone_every=3"))
    assert not (tmp_path / "run").exists()


def test_names_of_an_epoch() -> None:
    assert kept_names(3, is_best=False, every=None) == kept_names(3, is_best=False, every=2) == []
    assert kept_names(4, is_best=True, every=2) == [BEST_WEIGHTS, "student-epoch-4.safetensors"]
