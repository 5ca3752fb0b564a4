import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from kdcache.cache import open_cache
from kdcache.errors import (
    CacheMismatchError,
    InterruptedRunError,
    KdcacheError,
    RunMismatchError,
    SourceError,
    UsageError,
)
from kdcache.images import open_source
from kdcache.methods.base import Method
from kdcache.methods.feature import feature
from kdcache.methods.lift import lift
from kdcache.methods.logit import logit
from kdcache.methods.none import none
from kdcache.methods.spectral import spectral
from kdcache.methods.wide_last import wide_last
from kdcache.teacher.extract import extract
from kdcache.train import train
from kdcache.train.folder import load_student
from tests.conftest import flip_bit, tiny_extract
from tests.train.support import losses, tiny_run

TAP = ("blocks.-1/patch",)


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the loop can catch it."""


def killed_after(step: int) -> Any:
    def on_event(kind: str, values: dict[str, Any]) -> None:
        if kind == "step" and values["step"] == step:
            raise Killed

    return on_event


def student_weights(folder: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(folder / "student.safetensors")


@pytest.mark.parametrize(
    "method",
    [
        none(),
        logit(),
        feature(teacher=TAP),
        feature(teacher=TAP, adapter="pool"),
        lift(teacher=TAP),
        wide_last(teacher=TAP),
    ],
    ids=["none", "logit", "feature", "feature-pool", "lift", "widelast"],
)
def test_every_method_trains_from_the_cache(tiny_root: Path, tmp_path: Path, method: Any) -> None:
    summary = train(
        tiny_root, tmp_path / "run", tiny_run(*(["data.codec=none"] if method.name == "none" else []), method=method)
    )
    assert summary["steps"] == 10
    assert summary["method"] == method.name
    assert len(losses(tmp_path / "run")) == 10
    student, *_ = load_student(tmp_path / "run")
    assert student(torch.zeros(1, 3, 16, 16)).shape == (1, 10)
    assert json.loads((tmp_path / "run" / "summary.json").read_bytes()) == summary


@pytest.mark.parametrize(
    ("settings", "kill"), [([], 7), (["checkpoint.every_steps=2"], 3), (["checkpoint.every_steps=1"], 10)]
)
@pytest.mark.slow
def test_a_killed_run_continues_to_the_same_losses_bit_for_bit(
    tiny_root: Path, tmp_path: Path, settings: list[str], kill: int
) -> None:
    config = tiny_run(*settings, ema_decay=0.9)
    train(tiny_root, tmp_path / "whole", config)
    with pytest.raises(Killed):
        train(tiny_root, tmp_path / "cut", config, on_event=killed_after(kill))
    resumed: list[int] = []
    train(
        tiny_root, tmp_path / "cut", config, on_event=lambda k, v: resumed.append(v["step"]) if k == "resume" else None
    )
    assert resumed
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    for name in ("student.safetensors", "student-ema.safetensors"):
        whole, cut = (safetensors.torch.load_file(tmp_path / run / name) for run in ("whole", "cut"))
        assert all(torch.equal(cut[key], value) for key, value in whole.items())


def test_killed_before_the_first_checkpoint(tiny_root: Path, tmp_path: Path) -> None:
    train(tiny_root, tmp_path / "whole", tiny_run())
    with pytest.raises(Killed):
        train(tiny_root, tmp_path / "cut", tiny_run(), on_event=killed_after(2))
    train(tiny_root, tmp_path / "cut", tiny_run())
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")


@pytest.mark.slow
def test_a_damaged_checkpoint_costs_steps_and_no_correctness(tiny_root: Path, tmp_path: Path) -> None:
    config = tiny_run("checkpoint.every_steps=1")
    train(tiny_root, tmp_path / "whole", config)
    with pytest.raises(Killed):
        train(tiny_root, tmp_path / "cut", config, on_event=killed_after(8))
    newest = sorted((tmp_path / "cut" / "checkpoints").glob("*.pt"))[-1]
    flip_bit(newest, newest.stat().st_size // 2)
    seen: list[tuple[str, Any]] = []
    train(tiny_root, tmp_path / "cut", config, on_event=lambda kind, values: seen.append((kind, values)))
    assert seen[0][0] == "warning"
    assert seen[1] == ("resume", {"step": 6})
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")


def test_a_run_takes_the_threads_it_was_given(tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", given.append)
    train(tiny_root, tmp_path / "run", tiny_run("epochs=1", "cpu_threads=1"))
    assert given == [1]


def test_going_on_keeps_the_threads_the_run_began_with(tiny_root: Path, tmp_path: Path) -> None:
    """The shell that resumes may have another OMP_NUM_THREADS, and the last bits depend on the number."""
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with pytest.raises(Killed):
            train(tiny_root, tmp_path / "run", tiny_run(), on_event=killed_after(7))
        torch.set_num_threads(1)
        train(tiny_root, tmp_path / "run", tiny_run())
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_one_process_says_that_it_divides_no_weights(tiny_root: Path, tmp_path: Path) -> None:
    seen: list[str] = []
    train(tiny_root, tmp_path, tiny_run("epochs=1"))
    one = losses(tmp_path)
    config = tiny_run("epochs=1", "parallel=fsdp")
    train(tiny_root, tmp_path / "two", config, on_event=lambda kind, values: seen.append(values.get("text", "")))
    assert any("parallel=fsdp: one process has nobody to divide the weights with" in text for text in seen)
    assert losses(tmp_path / "two") == one


@pytest.mark.slow
def test_a_finished_run_is_not_trained_again(tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = train(tiny_root, tmp_path / "run", tiny_run())

    def held() -> dict[Path, bytes]:
        """All files, but for who held the lock last."""
        files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
        return {path: path.read_bytes() for path in files if path.parent.name != "job"}

    before, events = held(), list[str]()
    monkeypatch.setattr("kdcache.train.origin.versions", lambda: {"torch": "99.0"})  # installed since
    assert train(tiny_root, tmp_path / "run", tiny_run(), on_event=lambda kind, _: events.append(kind)) == first
    assert events == []
    assert held() == before
    with pytest.raises(RunMismatchError, match="epochs: the run has 2, this command 1"):
        train(tiny_root, tmp_path / "run", tiny_run(epochs=1))


def test_a_signal_saves_the_step_and_leaves(tiny_root: Path, tmp_path: Path) -> None:
    def interrupt(kind: str, values: dict[str, Any]) -> None:
        if kind == "step" and values["step"] == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    previous = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        with pytest.raises(InterruptedRunError, match=r"stopped after step 3, which is saved in"):
            train(tiny_root, tmp_path / "cut", tiny_run(), on_event=interrupt)
    finally:
        signal.signal(signal.SIGTERM, previous)
    train(tiny_root, tmp_path / "whole", tiny_run())
    train(tiny_root, tmp_path / "cut", tiny_run())
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")


def test_resuming_on_another_cache_is_refused(tiny_root: Path, tmp_path: Path) -> None:
    with pytest.raises(Killed):
        train(tiny_root, tmp_path / "run", tiny_run(), on_event=killed_after(6))
    extract(tiny_extract(tmp_path / "other", seed=1))
    with pytest.raises(RunMismatchError, match="cache: the run has"):
        train(tmp_path / "other", tmp_path / "run", tiny_run())


def test_a_cache_of_another_teacher(tiny_root: Path, tmp_path: Path) -> None:
    with pytest.raises(CacheMismatchError, match="this run wants 'cait_s24_224'"):
        train(tiny_root, tmp_path / "run", tiny_run(teacher="cait_s24_224"))
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_not_finite_stops_the_run(tiny_root: Path, tmp_path: Path) -> None:
    with pytest.raises(KdcacheError, match=r"the loss of step \d+ is .*nan.*last good checkpoint"):
        train(tiny_root, tmp_path / "run", tiny_run("optimizer.lr=1e30"))


def test_evaluation_during_training(tiny_root: Path, tmp_path: Path) -> None:
    evals: list[dict[str, Any]] = []
    config = tiny_run("eval.data=digits:test", "eval.every_epochs=2", epochs=3)
    summary = train(tiny_root, tmp_path / "run", config, on_event=lambda k, v: evals.append(v) if k == "eval" else None)
    assert [each["epoch"] for each in evals] == [1, 2]
    assert summary["num_images"] == 360
    assert summary["top1"] == evals[-1]["top1"] <= summary["best_top1"]


def test_evaluation_on_other_classes_is_refused(photos: Path, tmp_path: Path) -> None:
    extract(tiny_extract(tmp_path / "c", data=str(photos), taps=("head/logits",)))
    told = tiny_run("eval.data=digits:test", "same_classes=true", method=logit(), batch_size=2)
    with pytest.raises(SourceError, match="is no class of the model"):
        train(tmp_path / "c", tmp_path / "run", told)
    teachers = tiny_run(f"eval.data={photos}", method=logit(logit_weight=1.0), batch_size=2)
    with pytest.raises(SourceError, match=r"images have 2 classes .* the student has 10 without names"):
        train(tmp_path / "c", tmp_path / "run", teachers)


def test_the_views_of_all_epochs_are_used(tiny_root: Path, tmp_path: Path) -> None:
    """Two epochs over two views: no view twice, so the losses of the epochs are of different pixels."""
    train(
        tiny_root, tmp_path / "run", tiny_run("optimizer.lr=1e-12", "data.window=1", "data.codec=none", method=none())
    )
    by_epoch = [[entry["loss"] for entry in losses(tmp_path / "run") if entry["epoch"] == epoch] for epoch in (0, 1)]
    assert set(by_epoch[0]) & set(by_epoch[1]) == set()


def test_online_needs_teachers(tiny_root: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="online=True and load_teachers go together"):
        train(tiny_root, tmp_path / "run", tiny_run("online=true"))


@pytest.mark.parametrize(
    ("method", "operation"),
    [
        (lift(teacher=("blocks.-1/patch:int8",)), "proj_mse 12 to 24"),
        (feature(teacher=("blocks.-1/patch:int8",), loss="cosine"), "proj_cosine 12 to 24"),
        (spectral(teacher=("blocks.-1/patch:int8",)), "spectral_align 12 and 24"),
        (none(), None),
    ],
    ids=["lift", "feature", "spectral", "none"],
)
def test_fused_operations_run_by_default_and_the_summary_says_how(
    tiny_root: Path, tmp_path: Path, method: Method, operation: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KD_KERNELS", "torch")
    codec = "none" if operation is None else "fp16"
    run = tiny_run(f"data.codec={codec}", method=method, epochs=1)
    found = train(tiny_root, tmp_path / "run", run)["fused_operations"]
    assert found == ({} if operation is None else {operation: "torch: KD_KERNELS=torch"})


def test_memory_is_that_of_this_process(tiny_root: Path, tmp_path: Path) -> None:
    summary = train(tiny_root, tmp_path / "run", tiny_run())
    assert 10**8 < summary["peak_memory_bytes"] < 10**11
    assert summary["target_bytes_per_view"] == sum(
        open_cache(tiny_root).column(name).stride_bytes for name in ("head-logits-fp16", "blocks-1-patch-fp16")
    )


def test_labels_that_the_student_does_not_know_are_refused_before_anything_is_written(
    tiny_root: Path, tmp_path: Path, photos: Path
) -> None:
    """Not after an epoch, when the folder holds this run and no other may take its place."""
    with pytest.raises(SourceError, match="these images have no labels"):
        train(tiny_root, tmp_path / "run", tiny_run(f"eval.data={photos / 'cat'}"))
    assert not (tmp_path / "run" / "config.json").exists()


def test_evaluation_images_are_read_as_told(tiny_root: Path, tmp_path: Path) -> None:
    """A flat folder whose labels stand in a file, as test sets come."""
    source, flat, listed = open_source("digits:test"), tmp_path / "flat", tmp_path / "labels.csv"
    flat.mkdir()
    for position in range(12):
        (flat / f"{position}.png").write_bytes(source.read(position))
    listed.write_text("".join(f"{position}.png,{source.images[position].label}\n" for position in range(12)))
    told = tiny_run(f"eval.data={flat}", f"eval.labels={listed}", epochs=1)
    assert train(tiny_root, tmp_path / "run", told)["num_images"] == 12
    with pytest.raises(UsageError, match=r"eval\.data names none"):
        train(tiny_root, tmp_path / "none", tiny_run(f"eval.labels={listed}"))
    with pytest.raises(SourceError, match="labels"):
        train(tiny_root, tmp_path / "without", tiny_run(f"eval.data={flat}"))
