"""A kernel counts as checked while its code and its settings are those that ran on a GPU."""

import json
from pathlib import Path

import pytest
from kdcache_kernels import checked
from kdcache_kernels.checked import digest, is_checked, stamped

KERNEL = '''
"""A file."""
import triton
import triton.language as tl
from kdcache_kernels.device.helper import twice

@triton.jit(do_not_specialize=["n"])
def toy(X, n, SIZE: tl.constexpr):
    """Doubles."""
    at = tl.arange(0, SIZE)  # all of it
    tl.store(X + at, twice(tl.load(X + at)))

def launch():
    return 1
'''
HELPER = """
import triton

@triton.jit
def twice(x):
    return x * 2
"""
ROWS = {"192": {"tile": 64}}
TABLES = Path(checked.__file__).parent / "tables"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "toy.py").write_text(KERNEL)
    (tmp_path / "helper.py").write_text(HELPER)
    monkeypatch.setattr(checked, "_DEVICE", tmp_path)
    checked._functions.cache_clear()
    yield tmp_path
    checked._functions.cache_clear()


@pytest.mark.parametrize(
    ("file", "old", "new", "is_same"),
    [
        ("toy.py", "  # all of it", "", True),
        ("toy.py", "Doubles.", "Two of each.", True),
        ("toy.py", "return 1", "return 2", True),
        ("toy.py", "tl.arange(0, SIZE)", "tl.arange(0, SIZE) + 0", False),
        ("toy.py", '(do_not_specialize=["n"])', "", False),
        ("helper.py", "x * 2", "x + x", False),
    ],
)  # fmt: skip
def test_only_code_counts(folder: Path, file: str, old: str, new: str, is_same: bool) -> None:
    before = digest("toy", ROWS)
    text = (folder / file).read_text()
    assert old in text
    (folder / file).write_text(text.replace(old, new))
    checked._functions.cache_clear()
    assert (digest("toy", ROWS) == before) is is_same


def test_settings_count(folder: Path) -> None:
    document = stamped({"kernels": {"toy": ROWS}}, "H100, today")
    assert document["checked_on"] == "H100, today"
    assert is_checked(document, "toy")
    assert not is_checked({**document, "kernels": {"toy": {"192": {"tile": 128}}}}, "toy")
    assert not is_checked({"kernels": {"toy": ROWS}}, "toy")


def test_the_list_of_what_waits_for_a_gpu_is_true() -> None:
    """Changed since the H100's check of 2026-11-27; benchmarks/README.md says so. Only a check on a GPU shortens it."""
    document = json.loads((TABLES / "sm_90.json").read_text())
    waiting = {kernel for kernel in document["kernels"] if not is_checked(document, kernel)}
    assert waiting == set()
