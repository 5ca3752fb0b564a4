from pathlib import Path
from typing import Any

import pytest

from kdcache.cache import Cache
from kdcache.cache.base import planned_shards, read_base
from kdcache.cache.paths import CachePaths
from kdcache.errors import CacheMismatchError, CorruptCacheError, IncompleteCacheError, Remedy
from tests.cache.support import rewrite_manifest


def test_shards_are_planned_from_the_fingerprint(tiny_cache: Cache) -> None:
    planned = planned_shards(tiny_cache.manifest.fingerprint)
    assert [(shard.name, shard.first, shard.num_samples) for shard in planned] == [
        ("train-000000", 0, 8),
        ("train-000001", 8, 8),
        ("train-000002", 16, 4),
    ]


def test_it_counts_images_views_and_bytes(tiny_cache: Cache) -> None:
    manifest = tiny_cache.manifest
    assert (manifest.num_samples, manifest.num_records, manifest.num_bad) == (20, 40, 0)
    assert manifest.image_modes == {"L": 20}
    sizes = [tiny_cache.path("samples", shard).stat().st_size for shard in manifest.shards]
    assert manifest.part_bytes("samples") == sum(sizes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(extra=1), "extra"),
        (lambda m: m["fingerprint"].update(shard_samples="8"), "shard_samples"),
        (lambda m: m["fingerprint"].update(shard_samples=6.5), "shard_samples"),
        (lambda m: m["shards"][0].update(name="../../etc"), "where 'train-000000' was planned"),
        (lambda m: m["shards"][0].update(name="samples"), "where 'train-000000' was planned"),
        (lambda m: m["shards"].append(m["shards"][0]), "4 shards, 3 were planned"),
        (lambda m: m["fingerprint"].update(split="../x"), "split '../x' cannot be named"),
        (lambda m: m["fingerprint"]["source"].update(num_samples=10**15), "shards of split"),
        (lambda m: m["shards"][0].update(num_samples=7), "7 images and 0 bad ones, 8 were planned"),
        (lambda m: m["shards"][0]["files"]["samples"].update(size_bytes=100), "8 images cannot be in 100 bytes"),
        (lambda m: m["shards"][0]["files"].update({"../x": m["shards"][0]["files"]["index"]}), "lists"),
        (lambda m: m["shards"][0]["files"].pop("samples"), "lists"),
    ],
)
def test_hostile_manifests_are_refused(cache_copy: Path, change: Any, message: str) -> None:
    rewrite_manifest(CachePaths(cache_copy), change)
    with pytest.raises(CorruptCacheError, match=message):
        read_base(CachePaths(cache_copy))


def test_a_cache_of_format_1_is_refused_in_one_clear_sentence(tmp_path: Path) -> None:
    paths = CachePaths(tmp_path)
    paths.manifest.write_text('{"fingerprint": {"format_version": 1}}')
    rewrite_manifest(paths, lambda _: None)
    with pytest.raises(CacheMismatchError) as caught:
        read_base(paths)
    assert str(caught.value) == (
        f"{tmp_path / 'manifest.json'}: written in cache format 1, this kdcache reads format 2"
    )
    assert caught.value.remedy is Remedy.EXTRACT_ELSEWHERE


def test_what_is_no_finished_cache(tmp_path: Path, cache_copy: Path) -> None:
    with pytest.raises(IncompleteCacheError, match="no such folder"):
        read_base(CachePaths(tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(IncompleteCacheError, match="not a cache"):
        read_base(CachePaths(tmp_path / "empty"))
    CachePaths(cache_copy).manifest.unlink()
    with pytest.raises(IncompleteCacheError, match="has not finished"):
        read_base(CachePaths(cache_copy))
