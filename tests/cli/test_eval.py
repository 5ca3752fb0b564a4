from pathlib import Path

import pytest

from tests.cli.support import fails


def test_a_folder_that_is_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "not the folder of a finished run" in fails(capsys, ["eval", str(tmp_path), "--data", "digits:test"])


def test_a_batch_of_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["eval", str(tmp_path), "--data", "digits", "--batch-size", "0"]
    assert "at least 1" in fails(capsys, words, code=2)
