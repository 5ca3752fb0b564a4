"""One word for one thing, the field's: words that were replaced do not come back."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
REPLACED = {
    r"\bowed\b": "pending",
    r"\bmend(s|ed|ing)?\b": "repair",
    r"\bset aside\b": "quarantine",
    r"\bbless(ed)?\b": "accept",
    r"\bjudge[sd]?\b": "evaluate",
    r"\banew\b": "again",
    r"\bgo(es)? on (with|without|after|from)\b": "resume, continue",
    r"\bdimensions (that )?hold\b": "components explain",
    r"\b[Ss]hare of the (time|energy|probability|views|images|channels|tokens)\b": "fraction",
    r"\bmemcpy beside\b": "relative to memcpy",
}
FILES = sorted(
    [
        *(ROOT / "kdcache").rglob("*.py"),
        *(ROOT / "kdcache").rglob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        ROOT / "README.md",
    ]
)


@pytest.mark.parametrize("pattern", REPLACED)
def test_a_replaced_word_stays_away(pattern: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:80]}; write {REPLACED[pattern]}"
        for path in FILES
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if re.search(pattern, line)
    ]
    assert found == []
