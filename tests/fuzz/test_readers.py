"""No reader of a changed file crashes, hangs, takes memory beyond the file's size, or raises what is not kdcache's.

``KDCACHE_FUZZ_EXAMPLES=1000`` tries so many changes of each file, other ones every time.
"""

import os
import resource
import shutil
import time
import tracemalloc
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from kdcache.errors import KdcacheError
from tests.export.support import finished
from tests.fuzz.mutations import MUTATIONS, Mutation, mutated
from tests.fuzz.readers import Reader, readers

EXAMPLES = "KDCACHE_FUZZ_EXAMPLES"
MOST_S = 20.0  # a hang; nothing takes a second
FIXED_BYTES = 8 << 20
# What the readers in C take is not seen by tracemalloc; beyond this they get none.
ADDRESS_BYTES = 2 << 30
NAMES = (
    "tar headers", "npy headers", "index", "group index", "manifest", "group manifest", "fingerprint", "ledger",
    "sample", "checkpoint", "student", "weights", "sealed facts", "metrics", "summary", "image", "source tar",
    "source tar, compressed", "npy", "feature tar", "cache in one HDF5 file",
)  # fmt: skip


@pytest.fixture(scope="module")
def known(tiny_root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Reader]:
    folder = tmp_path_factory.mktemp("fuzz")
    return readers(tiny_root, finished(tiny_root, folder / "run"), folder)


@pytest.fixture(autouse=True)
def little_memory() -> Iterator[None]:
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (held + ADDRESS_BYTES, hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def test_every_reader_has_a_test(known: dict[str, Reader]) -> None:
    assert tuple(known) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_whole_files_are_read(known: dict[str, Reader], tmp_path: Path, name: str) -> None:
    reader = known[name]
    for seed in reader.seeds:
        (tmp_path / reader.name).write_bytes(seed)
        reader.read(tmp_path / reader.name)


@pytest.mark.parametrize("num_changes", [10, pytest.param(40, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", NAMES)
def test_changed_files_are_refused_or_read(
    known: dict[str, Reader], tmp_path: Path, name: str, num_changes: int
) -> None:
    reader, folder = known[name], tmp_path / "changed"
    given_number = os.environ.get(EXAMPLES)

    @settings(
        max_examples=int(given_number or num_changes),
        derandomize=given_number is None,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(number=st.integers(0, len(reader.seeds) - 1), mutations=MUTATIONS)
    def try_one(number: int, mutations: list[Mutation]) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        data = mutated(reader.seeds[number], mutations)
        note(f"{len(data)} bytes: {data[:200]!r}")
        (folder / reader.name).write_bytes(data)
        must_refuse_or_read(reader, folder / reader.name, len(data))

    try_one()


def must_refuse_or_read(reader: Reader, path: Path, size: int) -> None:
    started = time.monotonic()
    tracemalloc.start()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Pillow about odd files
            reader.read(path)
    except KdcacheError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert time.monotonic() - started < MOST_S
    assert peak < FIXED_BYTES + reader.bound_factor * size, f"{peak} bytes for a file of {size}"


def test_what_a_bad_reader_does_shows(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x")
    with pytest.raises(AssertionError, match="bytes for a file of 1"):
        must_refuse_or_read(Reader("f", lambda path: bytearray(64 << 20)), tmp_path / "f", 1)
    with pytest.raises(MemoryError):
        must_refuse_or_read(Reader("f", lambda path: bytearray(8 << 30)), tmp_path / "f", 1)
    with pytest.raises(KeyError):
        must_refuse_or_read(Reader("f", lambda path: {}[path]), tmp_path / "f", 1)
