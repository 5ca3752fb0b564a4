"""Loaders at work: damage, budgets, resuming."""

import gc
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from kdcache.cache import Cache, open_cache
from kdcache.errors import CacheMismatchError, CorruptCacheError, UsageError
from kdcache.reading import files
from tests.conftest import flip_bit
from tests.stream.contract import epochs, fingerprints
from tests.stream.modes import MODES, needs_extension
from tests.stream.test_contract import cache_loader

ROOT = Path(__file__).parents[2]


def resident_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.mark.parametrize("changes", [{}, {"access": "read"}, {"images": "none", "check": "background"}])
@pytest.mark.slow
def test_a_day_in_miniature(tiny_cache: Cache, changes: dict[str, Any]) -> None:
    """200 epochs, every second one left half-way, without growth in memory, threads or open files."""
    gc.collect()
    loader = cache_loader(tiny_cache, **changes)
    taken: list[tuple[int, int, float]] = []
    for epoch in range(200):
        for step, _ in enumerate(loader):
            if epoch % 2 and step == 2:
                break
        if epoch in (40, 199):
            gc.collect()
            taken.append((threading.active_count(), len(list(Path("/proc/self/fd").iterdir())), resident_mib()))
    (threads, files, memory), (threads_after, files_after, memory_after) = taken
    assert (threads_after, files_after) == (threads, files)
    assert memory_after - memory < 8


def test_damage_is_found_beside_the_stream(cache_copy: Path) -> None:
    """With check='background' the first batches may pass, an epoch may not."""
    cache = open_cache(cache_copy)
    strided = cache.strided(cache.find_column(kind="patch", codec="fp16"), cache.manifest.shards[1])
    flip_bit(strided.path, strided.payload_offset(3))
    loader = cache_loader(cache, check="background", check_pixels=0.0)
    with pytest.raises(CorruptCacheError, match=r"train-000001.tar: bytes differ from what was written \(XXH3_64\)"):
        for _ in range(3):
            for _ in loader:
                pass


@pytest.mark.parametrize("access", MODES)
def test_a_shard_truncated_under_the_stream(cache_copy: Path, access: str) -> None:
    cache = open_cache(cache_copy)
    loader = cache_loader(cache, access=access, images="none")
    list(loader)
    for shard in cache.manifest.shards:
        path = cache.paths.shard(cache.columns[0].name, shard.name)
        path.chmod(0o644)
        os.truncate(path, 700)
    with pytest.raises(CorruptCacheError, match="became shorter"):
        list(loader)


def test_a_shard_that_vanishes_is_read_on_until_it_must_be_opened_again(cache_copy: Path) -> None:
    cache = open_cache(cache_copy)
    loader = cache_loader(cache, images="none")
    list(loader)
    for shard in cache.manifest.shards:
        cache.paths.shard(cache.columns[0].name, shard.name).unlink()
    list(loader)
    with pytest.raises(CorruptCacheError, match=r"tar: missing"):
        list(cache_loader(cache, images="none"))


@needs_extension
def test_the_memory_budget_is_respected(tiny_cache: Cache) -> None:
    """Mapped bytes never exceed it; a window that does not fit is read instead."""
    columns = tiny_cache.columns
    shard_bytes = [
        sum(tiny_cache.file(each.name, shard).size_bytes for each in columns) for shard in tiny_cache.manifest.shards
    ]
    buffers = 3 * 4 * sum(each.layout().payload_bytes for each in columns)
    for room in (sum(shard_bytes), max(shard_bytes) * 2):
        loader = cache_loader(tiny_cache, images="none", window=1, memory_budget=buffers + room)
        assert loader.records.memory.access == "map"
        for _ in range(3):
            for _ in loader:
                kept = loader.records.reader._open_shards._values.values()
                assert sum(shard.mapped_bytes for shard in kept) <= room
    narrow = cache_loader(tiny_cache, images="none", window=2, memory_budget=buffers + max(shard_bytes))
    assert narrow.records.memory.access == "read"
    assert "not mapped" in narrow.records.memory.note
    with pytest.raises(UsageError, match="the batch buffers take"):
        cache_loader(tiny_cache, images="none", memory_budget=1000)


def test_batches_without_pixels_say_so(tiny_cache: Cache) -> None:
    batch = next(iter(cache_loader(tiny_cache, images="none")))
    assert batch.pixels is None
    with pytest.raises(UsageError, match=r"no pixels; open it with StreamConfig\(images='pixels'\)"):
        _ = batch.images


def test_labels_can_be_required(tiny_cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    loader = cache_loader(tiny_cache, require_labels=True)
    list(loader)
    shard, row = loader.records.reader.locate(7)
    shard.index.labels[row] = -1
    monkeypatch.setattr(loader.records.reader._labels, "_known", None)
    with pytest.raises(UsageError, match=r"key 'digit-.*': no label, and labels are needed"):
        for _ in range(2):
            list(loader)


def test_without_the_extension_everything_works(tiny_cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = epochs(cache_loader(tiny_cache), 2)
    monkeypatch.setattr(files, "_gather", None)
    loader = cache_loader(tiny_cache)
    assert loader.records.memory.access == "read"
    assert epochs(loader, 2) == expected


def test_a_loader_that_nobody_holds_closes_its_files_at_once(tiny_cache: Cache) -> None:
    gc.collect()
    gc.disable()
    try:
        files = len(list(Path("/proc/self/fd").iterdir()))
        loader = cache_loader(tiny_cache)
        list(loader)
        next(iter(loader))
        assert len(list(Path("/proc/self/fd").iterdir())) > files
        del loader
        assert len(list(Path("/proc/self/fd").iterdir())) == files
    finally:
        gc.enable()


def test_a_new_pass_ends_an_older_one(tiny_cache: Cache) -> None:
    loader = cache_loader(tiny_cache)
    older = iter(loader)
    first = fingerprints(next(older))
    rest = epochs(loader, 1)
    assert [first, *rest] == epochs(cache_loader(tiny_cache), 1)
    assert list(older) == []


def test_resuming_in_another_order_is_refused(tiny_cache: Cache) -> None:
    loader = cache_loader(tiny_cache)
    next(iter(loader))
    for changes in ({"window": 3}, {"shuffle": False}, {"tail": "pad"}, {"views_per_sample": 2}):
        with pytest.raises(CacheMismatchError, match="saved in another order: windows of 2 shards, 1 of 2 views"):
            cache_loader(tiny_cache, **changes).load_state_dict(loader.state_dict())


@pytest.mark.slow
def test_a_stream_left_open_does_not_keep_a_program_from_ending(tiny_root: Path) -> None:
    """Nor does the work beside it, which would take days here."""
    program = """
import sys
from kdcache.reading import reader
reader.BACKGROUND_BYTES_PER_S = 1
from tests.stream.contract import epochs, fingerprints
from tests.stream.test_contract import cache_loader
from kdcache.cache import open_cache
stream = iter(cache_loader(open_cache(sys.argv[1]), check="background"))
next(stream)
print("left")
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(tiny_root)], capture_output=True, text=True, timeout=60,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'kernels'}"},
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "left\n", "")
