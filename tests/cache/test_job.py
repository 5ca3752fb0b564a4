import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from kdcache.cache import Cache, CacheJob, open_cache
from kdcache.cache.job import read_ledger
from kdcache.cache.manifest import Fingerprint, read_fingerprint
from kdcache.errors import CacheBusyError, CacheMismatchError, CorruptCacheError
from kdcache.teacher.extract import extract
from tests.conftest import tiny_extract


def changed(fingerprint: Fingerprint, **changes: Any) -> Fingerprint:
    value = {**msgspec.to_builtins(fingerprint), **changes}
    return read_fingerprint(json.dumps(value).encode(), where="test")


def test_two_jobs_on_one_cache(tmp_path: Path) -> None:
    job = CacheJob(tmp_path / "c", "one")
    with pytest.raises(CacheBusyError, match="pid"):
        extract(tiny_extract(tmp_path / "c"))
    job.close()
    extract(tiny_extract(tmp_path / "c"))


def test_shards_are_planned_from_the_fingerprint(cache_copy: Path) -> None:
    job = CacheJob(cache_copy, "job")
    job.adopt(open_cache(cache_copy).manifest.fingerprint)
    planned = job.planned_shards()
    assert [(shard.name, shard.first, shard.num_samples) for shard in planned] == [
        ("train-000000", 0, 8),
        ("train-000001", 8, 8),
        ("train-000002", 16, 4),
    ]
    assert all(job.is_done(shard.name) for shard in planned)
    job.close()


def test_another_plan_is_refused_once_a_shard_is_finished(cache_copy: Path) -> None:
    job = CacheJob(cache_copy, "job")
    fingerprint = open_cache(cache_copy).manifest.fingerprint
    with pytest.raises(CacheMismatchError, match=r"batch_size: the cache has 6, this run wants 7(.|\n)*Nothing was"):
        job.adopt(changed(fingerprint, batch_size=7))
    job.close()


def test_a_plan_that_finished_nothing_binds_nobody(tiny_cache: Cache, tmp_path: Path) -> None:
    """Out of memory at the first batch: the user runs again with a smaller one."""
    job = CacheJob(tmp_path / "c", "job")
    fingerprint = tiny_cache.manifest.fingerprint
    job.adopt(fingerprint)
    job.adopt(changed(fingerprint, batch_size=3))
    assert job.fingerprint is not None
    assert job.fingerprint.batch_size == 3
    job.close()


@pytest.mark.parametrize("part", ["samples", "blocks-1-patch-int8", "ledger"])
def test_a_shard_counts_only_with_all_its_files(cache_copy: Path, part: str) -> None:
    job = CacheJob(cache_copy, "job")
    job.adopt(open_cache(cache_copy).manifest.fingerprint)
    path = job.paths.shard(part, "train-000001")
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1])
    assert not job.is_done("train-000001")
    path.unlink()
    assert not job.is_done("train-000001")
    assert job.is_done("train-000000")
    job.close()


def test_attempts_are_counted_in_the_cache(tmp_path: Path) -> None:
    for expected in (1, 2, 3):
        job = CacheJob(tmp_path / "c", f"job {expected}")
        assert job.count_attempt("train-000000") == expected
        job.close()


def test_a_finished_run_leaves_no_attempts_and_no_temporaries(tiny_root: Path) -> None:
    assert list((tiny_root / "job" / "attempts").iterdir()) == []
    assert not [path for path in tiny_root.rglob("*") if path.name.endswith(".tmp")]


def test_working_without_a_plan_is_a_mistake(tmp_path: Path) -> None:
    job = CacheJob(tmp_path / "c", "job")
    with pytest.raises(ValueError, match="adopt"):
        job.planned_shards()
    job.close()


def test_a_damaged_ledger_is_named(cache_copy: Path) -> None:
    paths = open_cache(cache_copy).paths
    path = paths.shard("ledger", "train-000000")
    path.chmod(0o644)
    path.write_bytes(b'{"bad":[{"x":1}],"fidelity":{}}')
    with pytest.raises(CorruptCacheError, match="not a ledger"):
        read_ledger(paths, "train-000000")


def test_a_lost_shard_alone_is_made_again(cache_copy: Path) -> None:
    """And the manifest comes out the same to the byte."""
    before = open_cache(cache_copy)
    for part in ("index", "blocks-1-patch-fp16"):
        before.paths.shard(part, "train-000001").unlink()
    report = extract(replace(tiny_extract(cache_copy)))
    assert (report.num_shards, report.num_skipped) == (1, 2)
    assert open_cache(cache_copy).digest == before.digest
