import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from kdcache.cache import open_cache
from kdcache.cancel import CancelToken
from kdcache.errors import CorruptCacheError
from kdcache.reading.checks import CheckPolicy
from kdcache.reading.files import ReadMode
from kdcache.reading.reader import ShardReader
from tests.conftest import flip_bit
from tests.stream.modes import MODES

ROWS = np.array([[0, 0], [7, 1]])


def opened(root: Path, mode: ReadMode, check: CheckPolicy = "full", **settings: int) -> tuple[ShardReader, Path]:
    """A reader that has read from the first shard, and the file of its one column."""
    cache = open_cache(root)
    column = cache.find_column(kind="patch", codec="fp16")
    reader = ShardReader(cache, [column], check=check, access=mode, **settings)
    reader.decode(ROWS)
    path = cache.path(column.name, cache.manifest.shards[0])
    path.chmod(0o644)
    return reader, path


def right(root: Path) -> np.ndarray:
    cache = open_cache(root)
    column = cache.find_column(kind="patch", codec="fp16")
    values = cache.strided(column, cache.manifest.shards[0]).fields()["values"]
    return values[[0, 15]].astype(np.float32)


@pytest.mark.parametrize("mode", MODES)
def test_a_file_overwritten_in_place_after_its_hash_is_not_served(cache_copy: Path, mode: ReadMode) -> None:
    reader, path = opened(cache_copy, mode)
    flip_bit(path, 900)
    with pytest.raises(CorruptCacheError, match="bytes differ from what was written"):
        reader.decode(ROWS)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("policy", ["full", "background", "size"])
def test_a_file_that_was_only_touched_is_served(cache_copy: Path, mode: ReadMode, policy: CheckPolicy) -> None:
    """A backup links it, an administrator changes its owner, it is cut and refilled with the same bytes."""
    wanted = right(cache_copy)
    reader, path = opened(cache_copy, mode, policy)
    data = path.read_bytes()
    for change in (
        lambda: os.utime(path),
        lambda: os.link(path, path.with_suffix(".b")),
        lambda: path.write_bytes(data),
    ):
        change()
        [found] = reader.decode(ROWS).values()
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("policy", ["full", "background", "size"])
@pytest.mark.parametrize("missing", [1, 2000])
def test_a_file_that_lost_its_end_is_never_zeros(
    cache_copy: Path, mode: ReadMode, policy: CheckPolicy, missing: int
) -> None:
    """What is cut off the last page of a map reads as zeros, without a signal."""
    reader, path = opened(cache_copy, mode, policy)
    os.truncate(path, path.stat().st_size - missing)
    with pytest.raises(CorruptCacheError, match=r"blocks-1-patch-fp16/train-000000\.tar.* became shorter"):
        reader.decode(ROWS)


def test_a_file_put_in_its_place_is_hashed_when_it_is_opened_again(cache_copy: Path) -> None:
    reader, path = opened(cache_copy, "read", max_open=1)
    other = Path(shutil.copy(path, path.with_suffix(".new")))
    flip_bit(other, 900)
    other.replace(path)
    reader.decode(ROWS)  # the old one is open
    reader.locate(8)
    with pytest.raises(CorruptCacheError, match="bytes differ from what was written"):
        reader.decode(ROWS)


@pytest.mark.parametrize("mode", MODES)
def test_in_the_background_a_changed_file_is_hashed_again(cache_copy: Path, mode: ReadMode) -> None:
    reader, path = opened(cache_copy, mode, "background")
    reader.check_unchecked(CancelToken(), CancelToken())
    assert reader.unchecked == set()
    flip_bit(path, 900)
    reader.decode(ROWS)
    assert reader.unchecked == {0}
    with pytest.raises(CorruptCacheError, match="bytes differ from what was written"):
        reader.check_unchecked(CancelToken(), CancelToken())


def test_images_of_a_file_that_was_overwritten_are_not_served(cache_copy: Path) -> None:
    reader, _ = opened(cache_copy, "read")
    path = cache_copy / "samples" / "train-000000.tar"
    path.chmod(0o644)
    flip_bit(path, 3000)
    with pytest.raises(CorruptCacheError, match=r"samples/train-000000\.tar: bytes differ"):
        reader.decode(ROWS)
