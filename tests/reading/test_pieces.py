import hashlib
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from kdcache.cache import Cache, open_cache
from kdcache.cache.paths import SAMPLES
from kdcache.errors import CorruptCacheError
from kdcache.reading import pieces
from kdcache.reading.pieces import ShardRows, read_images, read_jpegs
from kdcache.reading.reader import ShardReader

SAMPLES_WANTED = np.array([[17, 0], [3, 1], [9, 0], [3, 0], [0, 1], [19, 1]])


def digests(rows: ShardRows) -> list[bytes]:
    return [rows.at(number)[0].index.source_sha256[rows.at(number)[1]].tobytes() for number in range(len(rows))]


@pytest.mark.usefixtures("way")
def test_images_are_the_sources_bytes(tiny_cache: Cache) -> None:
    """Whatever their order, and twice where they are asked for twice."""
    rows = ShardReader(tiny_cache, []).rows_of(SAMPLES_WANTED)
    files = read_images(rows)
    assert [hashlib.sha256(files[number]).digest() for number in range(len(files))] == digests(rows)
    some = rows.chosen(np.array([4, 1]))
    assert [hashlib.sha256(each).digest() for each in (read_images(some)[0], read_images(some)[1])] == digests(some)
    assert len(read_images(rows.chosen(np.array([], int)))) == 0


@pytest.mark.usefixtures("way")
def test_jpegs_are_those_of_their_views(jpeg_root: Path) -> None:
    cache = open_cache(jpeg_root)
    column = cache.pixel_column
    assert column is not None
    reader = ShardReader(cache, [], jpegs=column, with_images=False)
    wanted = np.array([[9, 1], [2, 0], [9, 0]])
    rows, views = reader.rows_of(wanted), wanted[:, 1]
    files = read_jpegs(rows, views, column.name, 2)
    for number, view in enumerate(views.tolist()):
        shard, row = rows.at(number)
        assert shard.jpegs is not None
        file, record = shard.files[column.name], 2 * row + view
        expected = os.pread(file.descriptor, int(shard.jpegs.sizes[record]), int(shard.jpegs.offsets[record]))
        assert files[number] == expected and expected[:2] == b"\xff\xd8"


@pytest.mark.usefixtures("way")
def test_a_file_that_became_shorter_is_named(cache_copy: Path) -> None:
    cache = open_cache(cache_copy)
    rows = ShardReader(cache, []).rows_of(SAMPLES_WANTED)
    path = cache.path(SAMPLES, cache.manifest.shards[1])
    path.chmod(0o644)
    os.truncate(path, 1000)
    with pytest.raises(CorruptCacheError, match=r"train-000001\.tar: .* found for the record at byte"):
        read_images(rows)


def test_what_the_extension_did_not_get_whole_is_read_on(tiny_cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some network file systems give less than is asked for."""
    reader = ShardReader(tiny_cache, [])
    rows = reader.rows_of(SAMPLES_WANTED)
    monkeypatch.setattr(pieces, "_gather", SimpleNamespace(read=lambda places, out: 2))
    files = read_images(rows)
    assert [hashlib.sha256(files[number]).digest() for number in range(2, 6)] == digests(rows)[2:]


def test_the_extension_refuses_what_does_not_fit() -> None:
    if pieces._gather is None:
        pytest.skip("the C extension was not built")
    for wanted in ([[0, 0, 5]], [[0, 0, -1]], [[0, 0, 2**62], [0, 0, 2**62]], [[0, 0, 3], [0, 0, 3]]):
        with pytest.raises(ValueError, match="do not fill a buffer of 4 bytes"):
            pieces._gather.read(np.array(wanted), bytearray(4))
    with pytest.raises(ValueError, match="do not fill"):
        pieces._gather.read(np.array([0, 0, 4, 1]), bytearray(4))
    assert pieces._gather.read(np.array([[10**6, 0, 4]]), bytearray(4)) == 0, "no such descriptor"
