from pathlib import Path

import pytest

from tests.cli.support import fails


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
