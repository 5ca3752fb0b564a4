from pathlib import Path

import pytest

from tests.cli.support import as_one_of_two, fails


def test_a_folder_that_is_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "not the folder of a finished run" in fails(capsys, ["eval", str(tmp_path), "--data", "digits:test"])


@pytest.mark.parametrize(
    ("weights", "message", "code"),
    [
        ("best", "student-best.safetensors: no such file; a run keeps its best weights when it evaluates", 1),
        ("epoch-30", "milestones of this run: none; train with `--set checkpoint.milestone_every=N`", 1),
        ("newest", "weights 'newest': choose from last, best, ema, or epoch-N", 2),
    ],
)
def test_weights_that_are_not_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], weights: str, message: str, code: int
) -> None:
    words = ["eval", str(tmp_path), "--data", "digits:test", "--weights", weights]
    assert message in fails(capsys, words, code=code)


def test_a_batch_of_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["eval", str(tmp_path), "--data", "digits", "--batch-size", "0"]
    assert "at least 1" in fails(capsys, words, code=2)


@pytest.mark.parametrize(
    ("file", "message"),
    [("there.csv", "there is a file already"), ("no/p.csv", "there is no folder"), ("p.csv", "would be ignored")],
)
def test_predictions_that_cannot_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], file: str, message: str
) -> None:
    (tmp_path / "there.csv").write_text("mine")
    words = ["eval", str(tmp_path), "--data", "digits:test", "--predictions", str(tmp_path / file)]
    more = ["--probe", "--probe-data", "digits:train"] if file == "p.csv" else []
    assert message in fails(capsys, [*words, *more], code=2)
    assert (tmp_path / "there.csv").read_text() == "mine"


def test_predictions_are_of_one_process(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    as_one_of_two(monkeypatch)
    words = ["eval", str(tmp_path), "--data", "digits:test", "--predictions", str(tmp_path / "p.csv")]
    assert "run it alone" in fails(capsys, words, code=2)
