"""Bytes that change after their file was hashed, without a trace that the operating system keeps."""

import mmap
from pathlib import Path

import numpy as np
import pytest

from kdcache.cache import open_cache
from kdcache.cache.cache import Cache
from kdcache.errors import CorruptCacheError, Remedy
from kdcache.reading.files import ReadMode
from kdcache.reading.pieces import read_jpegs
from kdcache.reading.reader import ShardReader
from kdcache.reading.record_sums import check_record, read_sums
from tests.stream.modes import MODES

ROWS = np.array([[0, 0], [7, 1]])


@pytest.fixture
def silent_writer(cache_copy: Path) -> "mmap.mmap":
    """A writable map of a column, whose page is dirty before anybody reads: writing again changes no time."""
    cache = open_cache(cache_copy)
    path = cache.path(cache.find_column(kind="patch", codec="int8").name, cache.manifest.shards[0])
    path.chmod(0o644)
    with path.open("r+b") as file:
        held = mmap.mmap(file.fileno(), 0)
    held[900] = held[900]
    return held


@pytest.mark.parametrize("mode", MODES)
def test_a_write_through_a_map_is_found(cache_copy: Path, silent_writer: mmap.mmap, mode: ReadMode) -> None:
    cache = open_cache(cache_copy)
    column = cache.find_column(kind="patch", codec="int8")
    reader = ShardReader(cache, [column], check="records", access=mode)
    reader.decode(ROWS)
    shard, row = reader.locate(0)
    reader.decode_record(shard, row, 0, column)
    silent_writer[900] ^= 1
    with pytest.raises(CorruptCacheError, match=r"train-000000.tar: .*, view 0: the record.s bytes are not") as caught:
        reader.decode(ROWS)
    assert caught.value.remedy is Remedy.REPAIR
    with pytest.raises(CorruptCacheError, match="view 0: the record's bytes are not"):
        reader.decode_record(shard, row, 0, column)
    reader.decode(ROWS[1:])
    silent_writer[900] ^= 1
    reader.decode(ROWS)


def test_sums_are_those_of_every_kind_of_column(groups_root: Path, jpeg_root: Path) -> None:
    for root in (groups_root, jpeg_root):
        cache = open_cache(root)
        pixels = [cache.pixel_column] if cache.pixel_column is not None else []
        jpegs = next((column for column in pixels if column.codec == "jpeg"), None)
        strided = [*cache.columns, *(column for column in pixels if column is not jpegs)]
        sums = read_sums(cache, cache.manifest.shards[0], [*strided, *pixels])
        assert {len(each) for each in sums.values()} == {8 * cache.num_views}
        reader = ShardReader(cache, strided, jpegs=jpegs, check="records")
        rows = np.array([[sample, view] for sample in range(20) for view in range(2)])
        fields = {column.name: column.layout().fields for column in strided}
        into = {name: [np.empty((40, each.size_bytes), np.uint8) for each in own] for name, own in fields.items()}
        reader.gather(rows, into)
        if jpegs is not None:
            assert len(read_jpegs(reader.rows_of(rows), rows[:, 1], jpegs.name, 2)) == 40


def test_without_the_policy_no_index_is_read(tiny_cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdcache.reading.reader.read_sums", lambda *_: pytest.fail("sums were read"))
    ShardReader(tiny_cache, tiny_cache.columns).decode(ROWS)


def test_fields_are_one_payload() -> None:
    check_record([b"ab", b"c"], 0x352441C2, where="x")
    with pytest.raises(CorruptCacheError, match="x: the record's bytes"):
        check_record([b"ab", b"d"], 0x352441C2, where="x")
