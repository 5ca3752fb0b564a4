import os
from pathlib import Path

import numpy as np
import pytest

from kdcache.cache import open_cache
from kdcache.cache.paths import SAMPLES
from kdcache.errors import CorruptCacheError
from kdcache.reading import unchanged
from kdcache.reading.reader import ShardReader
from kdcache.reading.unchanged import UnchangedFiles

ROWS = np.array([[17, 0], [3, 1], [18, 1], [3, 0]])
needs_extension = pytest.mark.skipif(unchanged._gather is None, reason="the C extension was not built")


@needs_extension
def test_files_hold_until_one_of_them_changes(cache_copy: Path) -> None:
    """Of shards 0 and 2; what happens to shard 1 is no concern of these rows, and one that is not open is not known."""
    cache = open_cache(cache_copy)
    reader = ShardReader(cache, cache.columns)
    opened = dict(reader.shards_of(ROWS))
    files = UnchangedFiles(np.array([0, 8, 16, 20]), list(opened[0].files))
    assert files.hold(opened, ROWS)
    assert not files.hold({0: opened[0]}, ROWS)
    assert files.hold({0: opened[0]}, ROWS[1::2])
    os.utime(cache.path(SAMPLES, cache.manifest.shards[1]), ns=(1, 1))
    assert files.hold(opened, ROWS)
    os.utime(cache.path(SAMPLES, cache.manifest.shards[2]), ns=(1, 1))
    assert not files.hold(opened, ROWS)
    assert files.hold(opened, ROWS[1::2])


@needs_extension
def test_what_was_renewed_holds_again(cache_copy: Path) -> None:
    cache = open_cache(cache_copy)
    opened = dict(ShardReader(cache, []).shards_of(ROWS))
    files = UnchangedFiles(np.array([0, 8, 16, 20]), [SAMPLES])
    assert files.hold(opened, ROWS)
    os.utime(cache.path(SAMPLES, cache.manifest.shards[0]), ns=(-5, -5))
    opened[0].files[SAMPLES].renew()
    assert not files.hold(opened, ROWS)
    files.forget()
    assert files.hold(opened, ROWS), "with a time before 1970"


@pytest.mark.parametrize("with_extension", [True, False])
def test_a_stream_of_labels_alone_has_no_files(with_extension: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not with_extension:
        monkeypatch.setattr(unchanged, "_gather", None)
    assert UnchangedFiles(np.array([0, 8, 16, 20]), []).hold({}, ROWS)


def test_without_the_extension_nothing_is_known(cache_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reader looks closer then, and finds the same."""
    monkeypatch.setattr(unchanged, "_gather", None)
    cache = open_cache(cache_copy)
    reader = ShardReader(cache, [])
    shards = reader.shards_of(ROWS)
    assert not UnchangedFiles(np.array([0, 8, 16, 20]), [SAMPLES]).hold(shards, ROWS)
    assert reader.confirm(shards, ROWS)


@pytest.mark.parametrize("with_extension", [True, False])
def test_the_reader_looks_again_at_what_changed(
    cache_copy: Path, with_extension: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new time with the same bytes is read again, once; other bytes end the stream."""
    if not with_extension:
        monkeypatch.setattr(unchanged, "_gather", None)
    elif unchanged._gather is None:
        pytest.skip("the C extension was not built")
    cache = open_cache(cache_copy)
    reader = ShardReader(cache, [])
    shards = reader.shards_of(ROWS)
    path = cache.path(SAMPLES, cache.manifest.shards[2])
    os.utime(path, ns=(1, 1))
    assert [reader.confirm(shards, ROWS) for _ in range(2)] == [False, True]
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(700)
        file.write(b"?")
    with pytest.raises(CorruptCacheError, match="train-000002"):
        reader.confirm(shards, ROWS)


@needs_extension
def test_the_extension_refuses_what_does_not_fit() -> None:
    assert unchanged._gather is not None
    starts, none = np.array([0, 8]), np.full((1, 1), -1)
    identities = np.zeros((1, 1, 5), np.uint64)
    for wrong in (
        (np.zeros(3, np.int64), starts, none, identities),
        (ROWS, starts[:1], none, identities),
        (ROWS, starts, none, identities[..., :4]),
        (ROWS, np.array([0, 8, 9]), none, identities),
    ):
        with pytest.raises(ValueError, match="do not fit"):
            unchanged._gather.are_unchanged(*(np.ascontiguousarray(each) for each in wrong))
    for sample in (-1, 8):
        row = np.array([[sample, 0]])
        assert not unchanged._gather.are_unchanged(row, starts, none, identities)
