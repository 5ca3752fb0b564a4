import json
from pathlib import Path

import pytest

from kdcache.errors import Remedy, RunMismatchError
from kdcache.export.weights import measured, weights_file


def run_folder(folder: Path, *top1: float, epochs: int, averaged: bool = False) -> Path:
    entries = [
        {
            "kind": "eval",
            "step": 5 * (epoch + 1),
            "epoch": epoch,
            "top1": each,
            "top5": 9.0,
            "num_images": 4,
            "num_bad": 0,
        }
        for epoch, each in enumerate(top1)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    (folder / "summary.json").write_text(json.dumps({"epochs": epochs}))
    (folder / "student.safetensors").touch()
    if averaged:
        (folder / "student-ema.safetensors").touch()
    return folder


def test_the_last_weights_have_the_last_accuracy(tmp_path: Path) -> None:
    found = measured(run_folder(tmp_path, 7.0, 5.0, epochs=2), "last")
    assert found.epoch == 2
    assert found.accuracy is not None
    assert found.accuracy["top1"] == 5.0


def test_an_accuracy_of_an_earlier_epoch_is_not_theirs(tmp_path: Path) -> None:
    assert measured(run_folder(tmp_path, 7.0, epochs=2), "last").accuracy is None


def test_averaged_weights_were_not_evaluated(tmp_path: Path) -> None:
    found = measured(run_folder(tmp_path, 7.0, 5.0, epochs=2, averaged=True), "ema")
    assert (found.epoch, found.accuracy) == (2, None)
    assert weights_file(tmp_path, "ema") == "student-ema.safetensors"


def test_a_student_of_an_own_loop_has_no_figures(tmp_path: Path) -> None:
    found = measured(tmp_path, "last")
    assert (found.epoch, found.accuracy) == (None, None)


def test_weights_that_the_run_did_not_keep(tmp_path: Path) -> None:
    with pytest.raises(RunMismatchError, match=r"holds no student-ema\.safetensors; its weights are: last") as caught:
        weights_file(run_folder(tmp_path, epochs=1), "ema")
    assert caught.value.remedy is Remedy.KEEP_WEIGHTS
    assert weights_file(tmp_path, "last") == "student.safetensors"


def test_an_unfinished_run_is_reported_as_that(tmp_path: Path) -> None:
    """By whoever reads the student: which weights it will have is not known yet."""
    assert weights_file(tmp_path, "ema") == "student-ema.safetensors"
