from pathlib import Path

import numpy as np
import pytest

from kdcache.cache import Cache, open_cache
from kdcache.errors import CorruptCacheError
from kdcache.reading.reader import ShardReader
from tests.conftest import flip_bit


def test_records_equal_the_strided_view(tiny_cache: Cache) -> None:
    columns = tiny_cache.columns
    reader = ShardReader(tiny_cache, columns)
    for sample in (0, 7, 8, 19):
        shard, row = reader.locate(sample)
        facts = next(each for each in tiny_cache.manifest.shards if each.name == shard.name)
        for column in columns:
            decoded = column.make_codec().decode(tiny_cache.strided(column, facts).fields(), tuple(column.shape))
            for view in range(2):
                found = reader.decode_record(shard, row, view, column)
                np.testing.assert_array_equal(found, decoded[row * 2 + view])


def test_samples_are_located_across_shards(tiny_cache: Cache) -> None:
    reader = ShardReader(tiny_cache, [])
    places = [(reader.locate(sample)[0].name[-1], reader.locate(sample)[1]) for sample in (0, 7, 8, 15, 16, 19)]
    assert places == [("0", 0), ("0", 7), ("1", 0), ("1", 7), ("2", 0), ("2", 3)]


def test_damage_is_found_at_first_touch(cache_copy: Path) -> None:
    cache = open_cache(cache_copy)
    column = cache.find_column(kind="patch", codec="fp16")
    strided = cache.strided(column, cache.manifest.shards[1])
    flip_bit(strided.path, strided.payload_offset(0))
    reader = ShardReader(cache, [column])
    reader.locate(0)
    with pytest.raises(CorruptCacheError, match=r"train-000001.tar: bytes differ"):
        reader.locate(8)
    ShardReader(cache, [column], check="size").locate(8)


def test_a_file_that_shrinks_under_the_reader_is_an_error(cache_copy: Path) -> None:
    """With a memory map this would be SIGBUS and the end of the trainer."""
    cache = open_cache(cache_copy)
    column = cache.find_column(kind="patch", codec="fp16")
    reader = ShardReader(cache, [column])
    shard, row = reader.locate(7)
    path = cache.paths.shard(column.name, shard.name)
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.truncate(2000)
    with pytest.raises(CorruptCacheError, match=r"0 of 768 bytes found .* became shorter"):
        reader.decode_record(shard, row, 0, column)


def test_open_files_are_bounded(tiny_cache: Cache) -> None:
    reader = ShardReader(tiny_cache, tiny_cache.columns, max_open=1)
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    for sample in (0, 8, 16, 0, 8, 16):
        reader.locate(sample)
    assert len(list(Path("/proc/self/fd").iterdir())) <= descriptors + 2 * 8


def test_unknown_policies() -> None:
    with pytest.raises(ValueError, match="full, records, background, size, got 'none'"):
        ShardReader(None, [], check="none")


def test_labels_of_rows_whose_shard_was_closed_since(tiny_cache: Cache) -> None:
    reader = ShardReader(tiny_cache, [], max_open=1)
    rows = np.array([[0, 0], [8, 1], [19, 0]])
    shards = reader.gather(rows, {})
    assert not all(reader.has(number) for number in range(3))
    whole = np.concatenate([tiny_cache.index(shard).labels for shard in tiny_cache.manifest.shards])
    assert reader.labels_of(rows, shards).tolist() == whole[[0, 8, 19]].tolist()
