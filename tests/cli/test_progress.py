import sys

import pytest

from kdcache.cli import progress
from kdcache.cli.progress import ProgressReporter


def test_lines_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_SECONDS_BETWEEN_LINES", 0.0)
    with ProgressReporter("extract", "views") as reporter:
        reporter.update(3, 10, "limited by read")
        reporter.note("a note")
    shown = capsys.readouterr().err
    assert "extract: 3/10 views" in shown
    assert "limited by read" in shown
    assert "a note" in shown


def test_few_lines_and_the_last_one_always(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressReporter("extract", "views") as reporter:
        for done in range(1, 101):
            reporter.update(done, 100, "")
        reporter.update(100, 100, "")
    shown = capsys.readouterr().err
    assert shown.count("100/100") == 1
    assert "57/100" not in shown
    # Nothing is worth a comma where there is no note.
    assert shown.endswith("/s\n")


def test_silence(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressReporter("extract", "views", visible=False) as reporter:
        reporter.update(10, 10, "")
        reporter.note("x")
    assert capsys.readouterr().err == ""


def test_a_bar_on_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with ProgressReporter("extract", "views") as reporter:
        reporter.update(3, 10, "limited by compute")
        reporter.note("a note")
        reporter.update(10, 10, "limited by write")
    shown = capsys.readouterr().err
    assert "10/10" in shown
    assert "limited by write" in shown
    assert "a note" in shown
