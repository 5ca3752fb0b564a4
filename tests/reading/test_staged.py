"""How many fetched shards may be open: what fits the staging folder, and never less than a window."""

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from kdcache.cache import Cache
from kdcache.cache.paths import SAMPLES, CachePaths
from kdcache.errors import UsageError
from kdcache.reading.staged import most_open, most_open_in_stream
from kdcache.remote import RemoteFolder, RemoteUrl, Staging


def remote(cache: Cache, tmp_path: Path, max_bytes: int) -> Cache:
    folder = RemoteFolder(RemoteUrl.parse("s3://bucket/c"), Staging(tmp_path / "staging", max_bytes))
    return replace(cache, paths=CachePaths(tmp_path, folder))


def largest(cache: Cache, *parts: str) -> int:
    return max(sum(cache.file(part, shard).size_bytes for part in parts) for shard in cache.manifest.shards)


def test_a_cache_here_has_its_own_limit(tiny_cache: Cache) -> None:
    assert most_open(tiny_cache, [SAMPLES], 64) == 64
    assert most_open_in_stream(tiny_cache, [SAMPLES], 64, 16) == 64


def test_what_fits_stays_open(tiny_cache: Cache, tmp_path: Path) -> None:
    column = tiny_cache.columns[0]
    parts = [SAMPLES, column.name]
    one = largest(tiny_cache, "index", f"{column.group}/index", *parts)
    assert most_open(remote(tiny_cache, tmp_path, 10**9), parts, 64) == 64
    assert most_open(remote(tiny_cache, tmp_path, 2 * one), parts, 64) == 1
    with pytest.raises(UsageError, match=r"1 shards in use and 1 being fetched .*KDCACHE_STAGING_SIZE.*smaller window"):
        most_open(remote(tiny_cache, tmp_path, one + 1), parts, 64)


def test_a_window_must_fit(tiny_cache: Cache, tmp_path: Path) -> None:
    one = largest(tiny_cache, "index", SAMPLES)
    shards = tiny_cache.manifest.shards
    many = replace(tiny_cache, manifest=msgspec.structs.replace(tiny_cache.manifest, shards=[*shards, *shards]))
    assert most_open_in_stream(remote(many, tmp_path, 5 * one), [SAMPLES], 64, 1) == 2
    with pytest.raises(UsageError, match="3 shards in use and 3 being fetched"):
        most_open_in_stream(remote(many, tmp_path, 5 * one), [SAMPLES], 64, 2)
    # Everything fits.
    assert most_open_in_stream(remote(tiny_cache, tmp_path, 3 * one), [SAMPLES], 64, 16) == 64
