from pathlib import Path

import pytest

from kdcache.cli.main import main
from tests.cli.support import fails
from tests.reports.html import Page
from tests.reports.synthetic import ODD_NAME, write_full
from tests.reports.synthetic_runs import write_run


@pytest.mark.slow
def test_the_page_is_written_and_counted(tmp_path: Path, tiny_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [write_full(tmp_path / "analysis"), write_run(tmp_path / "a"), write_run(tmp_path / "b"), tiny_root]
    out = tmp_path / "pages" / "report.html"
    assert main(["report", *map(str, folders), "--out", str(out), "--title", ODD_NAME]) == 0
    counts, path = capsys.readouterr().out.splitlines()
    assert counts.startswith("report: 1 analysis, 2 runs, 1 cache, ")
    assert counts.endswith("B")
    assert path == str(out)
    page = Page(out.read_text(encoding="utf-8"))
    assert ODD_NAME in page.words
    assert [each for each in out.parent.iterdir() if each != out] == []


def test_titles_say_what_the_page_is_about(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, run = tmp_path / "r.html", write_run(tmp_path / "lift")
    assert main(["report", str(run), "--out", str(out)]) == 0
    assert "<title>lift: report of kdcache</title>" in out.read_text(encoding="utf-8")
    assert main(["report", str(run), str(write_run(tmp_path / "b")), "--out", str(out)]) == 0
    assert "<title>kdcache: 2 runs</title>" in out.read_text(encoding="utf-8")


def test_what_is_none_of_these_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "r.html")
    message = fails(capsys, ["report", str(tmp_path), "--out", out], code=2)
    assert str(tmp_path) in message
    assert "analysis.json" in message
    assert "no such folder" in fails(capsys, ["report", str(tmp_path / "none"), "--out", out], code=2)
    (tmp_path / "d.html").mkdir()
    assert "is a folder" in fails(capsys, ["report", str(tmp_path), "--out", str(tmp_path / "d.html")], code=2)
    assert "FOLDER" in fails(capsys, ["report", "--out", out], code=2)
    assert not Path(out).exists()
