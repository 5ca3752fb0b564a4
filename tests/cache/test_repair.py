import shutil
from pathlib import Path

import pytest

from kdcache.cache import Cache, CacheJob, open_cache
from kdcache.cache.repair import rebuild, set_aside
from kdcache.cache.verify import verify_shard
from kdcache.errors import CorruptCacheError, IncompleteCacheError, Remedy
from kdcache.teacher.extract import extract
from tests.conftest import flip_bit, tiny_extract


def rebuilt(root: Path) -> None:
    job = CacheJob(root, "rebuild")
    try:
        rebuild(job)
    finally:
        job.close()


def test_index_and_manifest_come_back_from_the_tars_to_the_byte(cache_copy: Path, tiny_cache: Cache) -> None:
    shutil.rmtree(cache_copy / "index")
    shutil.rmtree(cache_copy / "job")
    (cache_copy / "manifest.json").unlink()
    (cache_copy / "manifest.sha256").unlink()
    rebuilt(cache_copy)
    assert open_cache(cache_copy).digest == tiny_cache.digest


def test_without_ledgers_only_the_fidelity_is_lost(cache_copy: Path, tiny_cache: Cache) -> None:
    shutil.rmtree(cache_copy / "ledger")
    shutil.rmtree(cache_copy / "index")
    (cache_copy / "manifest.json").unlink()
    rebuilt(cache_copy)
    cache = open_cache(cache_copy)
    assert all(column.fidelity == {} for column in cache.manifest.columns.values())
    for name, column in tiny_cache.manifest.columns.items():
        assert cache.manifest.columns[name].rms == column.rms
    assert [fault for shard in cache.manifest.shards for fault in verify_shard(cache, shard)] == []


def test_damaged_tars_are_not_blessed(cache_copy: Path) -> None:
    flip_bit(cache_copy / "blocks-1-patch-fp16" / "train-000000.tar", 4000)
    with pytest.raises(CorruptCacheError, match="bytes differ") as caught:
        rebuilt(cache_copy)
    assert caught.value.remedy is Remedy.REPAIR
    (cache_copy / "manifest.json").unlink()
    with pytest.raises(CorruptCacheError, match="bytes differ"):
        rebuilt(cache_copy)


def test_a_missing_shard_is_no_rebuild(cache_copy: Path) -> None:
    (cache_copy / "samples" / "train-000001.tar").unlink()
    with pytest.raises(IncompleteCacheError, match=r"1 of 3 shards are missing \(train-000001"):
        rebuilt(cache_copy)


def test_nothing_to_rebuild_from(tmp_path: Path) -> None:
    with pytest.raises(IncompleteCacheError, match="no shards"):
        rebuilt(tmp_path)


def test_a_damaged_shard_is_set_aside_and_written_again(cache_copy: Path, tiny_cache: Cache) -> None:
    damaged = cache_copy / "blocks-1-patch-int8" / "train-000002.tar"
    flip_bit(damaged, 3000)
    cache = open_cache(cache_copy)
    job = CacheJob(cache_copy, "repair")
    set_aside(job, cache.manifest.fingerprint, ["train-000002"])
    job.close()
    assert not damaged.exists()
    assert (cache_copy / "job" / "damaged" / "blocks-1-patch-int8" / "train-000002.tar").is_file()
    with pytest.raises(IncompleteCacheError, match="has not finished"):
        open_cache(cache_copy)
    report = extract(tiny_extract(cache_copy))
    assert (report.num_shards, report.num_skipped) == (1, 2)
    assert open_cache(cache_copy).digest == tiny_cache.digest
