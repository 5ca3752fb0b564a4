import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kdcache.cli.main import main
from kdcache.cli.output import SafeOutput, printable, safe_output
from tests.cli.support import extract_words
from tests.conftest import file_hashes
from tests.images.support import image_bytes


def run(command: str, root: Path) -> subprocess.CompletedProcess[str]:
    """A verb under a shell that does what users do to its streams."""
    return subprocess.run(
        ["bash", "-c", command.format(kdcache=f"{sys.executable} -m kdcache", root=root)],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain é 中\n\ttext", "plain é 中\n\ttext"),
        ("a\x1b[2Jb", r"a\x1b[2Jb"),
        ("a\rb\x07\x7f\x9b", r"a\rb\x07\x7f\x9b"),
        ("\u202egpj.exe", r"\u202egpj.exe"),
        ("\udcff", r"\udcff"),
    ],
)
def test_nothing_steers_the_terminal(text: str, shown: str) -> None:
    assert printable(text) == shown
    stream = io.StringIO()
    SafeOutput(stream).write(text)
    assert stream.getvalue() == shown


def test_progress_bars_keep_their_carriage_return_and_their_own_writers_everything() -> None:
    stream = io.StringIO()
    output = SafeOutput(stream)
    output.write("\r 10%\x1b[A")
    output.unescaped().write("\x1b[1m")
    assert stream.getvalue() == "\r 10%\\x1b[A\x1b[1m"


def test_text_that_the_terminal_cannot_write_is_escaped() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, "ascii", write_through=True)
    SafeOutput(stream).write("é…")
    assert raw.getvalue() == rb"\xe9\u2026"


def test_a_name_from_the_disk_reaches_the_terminal_escaped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(tmp_path / "a\x1b[31m\x07")]) == 1
    assert "\x1b" not in (text := capsys.readouterr().err)
    assert r"a\x1b[31m\x07: no such folder" in text


@pytest.mark.parametrize(
    "command",
    [
        "{kdcache} verify {root} >&-",
        "{kdcache} verify {root} 2>&-",
        "{kdcache} verify {root} <&- >&- 2>&-",
        "{kdcache} verify {root} > /dev/full 2> /dev/full",
        "set -o pipefail; {kdcache} verify {root} | true",
    ],
)
def test_streams_that_are_closed_hide_neither_work_nor_exit_code(cache_copy: Path, command: str) -> None:
    before = file_hashes(cache_copy)
    found = run(command, cache_copy)
    # A slow machine sees progress.
    assert (found.returncode, "Traceback" in found.stderr, "rror" in found.stderr) == (0, False, False)
    (cache_copy / "ledger" / "train-000001.json").unlink()
    assert run(command, cache_copy).returncode == 1
    assert len(before) == len(file_hashes(cache_copy)) + 1


def test_a_closed_stream_is_not_given_to_the_next_file(tmp_path: Path) -> None:
    code = "import os; from kdcache.cli.output import safe_output\nwith safe_output(): os.write(2, b'lost')\n"
    code += f"file = open({str(tmp_path / 'x')!r}, 'w'); assert file.fileno() > 2"
    assert subprocess.run(["bash", "-c", f'{sys.executable} -c "$0" <&- 2>&-', code]).returncode == 0


def test_streams_come_back(capsys: pytest.CaptureFixture[str]) -> None:
    before = sys.stdout, sys.stderr
    with safe_output():
        assert isinstance(sys.stdout, SafeOutput)
        print("\x1b")
    assert (sys.stdout, sys.stderr) == before
    assert capsys.readouterr().out == "\\x1b\n"
    assert os.fstat(2)


def test_no_name_on_the_disk_begins_a_line_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Class folders, images, the cache and a run, all named so that a naive print would forge a line."""
    forged = "x\nFORGED\x1b[2J"
    data = tmp_path / f"data{forged}"
    for name in ("a", f"b{forged}"):
        (data / name).mkdir(parents=True)
        for number in range(3):
            (data / name / f"{number}{forged}.png").write_bytes(image_bytes(number, "PNG") if number else b"broken")
    (data / f".{forged}").mkdir()
    (data / "a" / f"c.{forged}").touch()
    cache, run = str(tmp_path / f"cache{forged}"), str(tmp_path / f"run{forged}")
    extract = [*extract_words(Path(cache), data=str(data), limit=None), "--max-bad", "0.5"]
    assert main(extract) == 0
    assert main([*extract, "--seed", "1"]) == 1
    for words in (["verify", cache], ["show", cache], [*extract[:1], *extract[1:-2], "--max-bad", "0"]):
        main(words)
    for words in (["show", run], ["eval", run, "--data", run], ["report", run, "--out", f"{run}.html"]):
        assert main(words) in (1, 2)
    with pytest.raises(SystemExit):
        main(["show", cache, f"--picture={forged}"])
    (next(Path(cache).glob("*/blocks*/*.tar"))).unlink()
    assert main(["verify", cache]) == 1
    shown = capsys.readouterr()
    lines = (shown.out + shown.err).splitlines()
    assert not [line for line in lines if line.startswith("FORGED")]
    assert any(r"x\nFORGED\x1b[2J" in line for line in lines)
    assert "\x1b" not in shown.out + shown.err
