"""The page on errors quotes messages as they are, and advises flags that exist."""

import re
from pathlib import Path

import pytest

from kdcache.cli.main import main

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text()
ROWS = [line for line in PAGE.splitlines() if line.startswith("| `")]
# The operating system's own words.
SYSTEM = {"No space left", "Too many open files"}
CODE = "\n".join(path.read_text() for path in sorted((ROOT / "kdcache").rglob("*.py")))
# Long messages are written as several literals, one a line.
JOINED = re.sub(r'"\s*\n\s*f?"', "", CODE)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.split("`")[1])
def test_the_words_of_a_message_are_in_the_code(row: str) -> None:
    quoted = re.findall(r"`([^`]+)`", row.split("|")[1])
    assert [words for words in quoted if words not in JOINED and words not in SYSTEM] == []


def test_the_flags_exist(capsys: pytest.CaptureFixture[str]) -> None:
    known: set[str] = set()
    for verb in ("extract", "train", "verify", "bench", "analyze"):
        with pytest.raises(SystemExit):
            main([verb, "--help"])
        known |= set(re.findall(r"--[a-z][a-z-]+", capsys.readouterr().out))
    assert set(re.findall(r"(--[a-z][a-z-]+)", PAGE)) - known == set()
