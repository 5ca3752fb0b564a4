import json
from pathlib import Path

import pytest
import torch

from kdcache.cli.main import main
from tests.cli.support import as_one_of_two, fails
from tests.conftest import STUDENT_KWARGS

KWARGS = [f"{name}={value}" for name, value in STUDENT_KWARGS.items()]


def test_digits_end_to_end(tiny_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.set_num_threads(1)
    run = str(tmp_path / "run")
    student = ["--student", "vit_tiny_patch16_224", "--student-kwargs", *KWARGS, "--method", "none"]
    assert main(["train", "--cache", str(tiny_root), "--out", run, *student, "--batch-size", "4"]) == 0
    capsys.readouterr()
    words = ["eval", run, "--data", "digits:test", "--probe", "--probe-data", "digits:train"]
    settings = ["--probe-set", "base_lr=20", "--probe-set", "epochs=20"]
    assert main([*words, *settings, "--probe-seeds", "2", "--probe-token", "mean", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["probe"] == {"token": "mean", "epochs": 20, "batch_size": 512, "base_lr": 20.0, "seeds": 2}
    assert found["caution"] is None
    for student_kind in ("trained", "untrained"):
        figures = found[student_kind]
        assert (figures["num_training_images"], figures["num_channels"]) == (1437, 12)
        assert [each["num_images"] for each in figures["seeds"]] == [360, 360]
        assert figures["top1"] == pytest.approx(sum(each["top1"] for each in figures["seeds"]) / 2)
    assert main([*words, "--probe-seeds", "1", "--probe-set", "epochs=1", "--probe-token", "mean"]) == 0
    shown = capsys.readouterr().out
    assert "last weights, linear probe on the mean token (12 channels), trained on 1437 images" in shown
    assert "untrained: the control, the same student with random weights of this run's seed" in shown
    assert "caution: 2 steps of LARS" in shown
    assert "--probe-set base_lr=" in shown
    assert len(list((tmp_path / "run" / "probe").iterdir())) == 4, "of two students and two sets of images, once"
    missing = fails(capsys, [*words, "--weights", "best"])
    assert "a run keeps its best weights when it evaluates" in missing


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--probe"], "--probe needs labelled images to train on: --probe-data"),
        (["--probe-data", "digits:train"], "--probe-data goes with --probe"),
        (["--probe-seeds", "3"], "--probe-seeds goes with --probe"),
        (["--probe-set", "epochs=3"], "--probe-set goes with --probe"),
        (
            ["--probe", "--probe-data", "digits:train", "--probe-set", "lr=3"],
            "has no field 'lr'; there are token, epochs, batch_size, base_lr",
        ),
        (["--probe", "--probe-data", "digits:train", "--probe-set", "epochs=0"], "epochs must be at least 1"),
    ],
)
def test_wrong_probes(tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], message: str) -> None:
    assert message in fails(capsys, ["eval", str(tmp_path), "--data", "digits:test", *more], code=2)


def test_more_than_one_process(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    as_one_of_two(monkeypatch)
    words = ["eval", str(tmp_path), "--data", "digits:test", "--probe", "--probe-data", "digits:train"]
    assert "start it without torchrun" in fails(capsys, words, code=2)
