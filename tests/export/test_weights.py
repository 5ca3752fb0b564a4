import json
from pathlib import Path

import pytest

from kdcache.export.weights import measured


def run_folder(folder: Path, *top1: float, epochs: int) -> Path:
    entries = [
        {"kind": "eval", "step": 5, "epoch": epoch, "top1": each, "top5": 9.0, "num_images": 4, "num_bad": 0}
        for epoch, each in enumerate(top1)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    (folder / "summary.json").write_text(json.dumps({"epochs": epochs}))
    return folder


@pytest.mark.parametrize(
    ("weights", "epoch", "top1"), [("last", 4, 5.0), ("best", 2, 7.0), ("epoch-3", 3, 7.0), ("epoch-1", 1, 6.0)]
)
def test_weights_have_the_accuracy_of_their_own_epoch(tmp_path: Path, weights: str, epoch: int, top1: float) -> None:
    found = measured(run_folder(tmp_path, 6.0, 7.0, 7.0, 5.0, epochs=4), weights)
    assert found.epoch == epoch
    assert found.accuracy is not None
    assert found.accuracy["top1"] == top1


def test_an_accuracy_of_an_earlier_epoch_is_not_theirs(tmp_path: Path) -> None:
    run = run_folder(tmp_path, 7.0, epochs=2)
    assert measured(run, "last").accuracy is None
    assert measured(run, "epoch-2").accuracy is None


def test_averaged_weights_were_not_evaluated(tmp_path: Path) -> None:
    found = measured(run_folder(tmp_path, 7.0, 5.0, epochs=2), "ema")
    assert (found.epoch, found.accuracy) == (2, None)


@pytest.mark.parametrize("weights", ["last", "best", "ema"])
def test_a_student_of_an_own_loop_has_no_figures(tmp_path: Path, weights: str) -> None:
    found = measured(tmp_path, weights)
    assert (found.epoch, found.accuracy) == (None, None)
