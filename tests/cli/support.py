"""Calling the command line inside the test process."""

from pathlib import Path

import pytest

from kdcache.cli.main import main
from tests.conftest import TEACHER, TEACHER_KWARGS


def extract_words(out: Path | str, *more: str, data: str = "digits:train", limit: int | None = 6) -> list[str]:
    """A tiny teacher pass as words."""
    kwargs = [f"{name}={value}" for name, value in TEACHER_KWARGS.items()]
    words = [
        "extract",
        "--data",
        data,
        "--teacher",
        TEACHER,
        "--teacher-weights",
        "random",
        "--teacher-kwargs",
        *kwargs,
    ]
    if limit is not None:
        words += ["--limit", str(limit)]
    return [*words, "--shard-samples", "4", "--out", str(out), *more]


def fails(capsys: pytest.CaptureFixture[str], words: list[str], code: int = 1) -> str:
    """Run a command that must fail with one clear message and no traceback; returns the message."""
    try:
        found = main(words)
    except SystemExit as leave:
        found = int(leave.code or 0)
    shown = capsys.readouterr()
    assert found == code, shown.err
    assert "Traceback" not in shown.err
    assert shown.err.count("error:") == 1
    return shown.err


def without(words: list[str], *flags: str) -> list[str]:
    """A command line without some flags and their values: a flag is given once."""
    kept: list[str] = []
    is_left_out = False
    for word in words:
        if word.startswith("--"):
            is_left_out = word in flags
        if not is_left_out:
            kept.append(word)
    return kept


def as_one_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of the first of two ranks."""
    job = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
    for name, value in job.items():
        monkeypatch.setenv(name, value)
