"""Every proof that the table of faults names is a test that is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROOFS = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (ROOT / "docs" / "faults.md").read_text())


def test_there_are_proofs() -> None:
    assert len(PROOFS) > 40


@pytest.mark.parametrize(("file", "name"), PROOFS)
def test_the_proof_is_there(file: str, name: str) -> None:
    assert re.search(rf"^def {name}\(", (ROOT / file).read_text(), re.MULTILINE)
