import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest

from kdcache.cache import BaseFingerprint, Cache, GroupFingerprint, open_cache
from kdcache.cache.job import Job, committed, index_head, read_ledger
from kdcache.cache.manifest import fingerprint_digest
from kdcache.cache.paths import CachePaths
from kdcache.errors import CacheBusyError, CacheMismatchError, CorruptCacheError, Remedy
from kdcache.teacher.extract import extract
from tests.cache.support import overwrite
from tests.conftest import GROUP, file_hashes, tiny_extract


def base_job(root: Path, job_id: str = "job") -> Job[BaseFingerprint]:
    return Job(CachePaths(root), job_id, BaseFingerprint)


def group_job(root: Path, name: str = GROUP) -> Job[GroupFingerprint]:
    return Job(CachePaths(root).group(name), "job", GroupFingerprint)


def test_two_jobs_on_one_cache(tmp_path: Path) -> None:
    job = base_job(tmp_path / "c")
    with pytest.raises(CacheBusyError, match="pid"):
        extract(tiny_extract(tmp_path / "c"))
    job.close()
    extract(tiny_extract(tmp_path / "c"))


def test_another_plan_is_refused_once_a_shard_is_finished(cache_copy: Path) -> None:
    job = group_job(cache_copy)
    fingerprint = open_cache(cache_copy).groups[GROUP].manifest.fingerprint
    assert job.known() == fingerprint
    message = r"batch_size: the cache has 6, this run wants 7\nNothing was changed"
    with pytest.raises(CacheMismatchError, match=message) as caught:
        job.adopt(msgspec.structs.replace(fingerprint, batch_size=7))
    assert caught.value.remedy is Remedy.SAME_PLAN
    job.adopt(fingerprint)
    job.close()


def test_a_plan_that_finished_nothing_is_replaced(tiny_cache: Cache, tmp_path: Path) -> None:
    """Out of memory at the first batch: the user runs again with a smaller one."""
    job = group_job(tmp_path / "c")
    assert job.known() is None
    fingerprint = tiny_cache.groups[GROUP].manifest.fingerprint
    job.adopt(fingerprint)
    job.adopt(msgspec.structs.replace(fingerprint, batch_size=3))
    known = job.known()
    assert known is not None
    assert known.batch_size == 3
    job.close()


@pytest.mark.parametrize("group", ["", GROUP])
def test_an_unfinished_cache_copied_without_its_job_keeps_its_plan(cache_copy: Path, group: str) -> None:
    """The tars say how they were made, and every index does."""
    cache = open_cache(cache_copy)
    shutil.rmtree(cache_copy / group / "job")
    for path in (cache_copy / group).glob("manifest.*"):
        path.unlink()
    job: Job[Any] = group_job(cache_copy) if group else base_job(cache_copy)
    held = cache.groups[GROUP].manifest.fingerprint if group else cache.manifest.fingerprint
    assert job.known() == held
    other = msgspec.structs.replace(held, versions={"kdcache": "0"})
    with pytest.raises(CacheMismatchError, match=r"versions\.kdcache: the cache has '.+', this run wants '0'"):
        job.adopt(other)
    assert not (cache_copy / group / "job" / "plan.json").exists()
    job.adopt(held)
    assert job.is_done("train-000000")
    job.close()


def test_a_shard_of_another_plan_is_refused_and_stays(cache_copy: Path, jpeg_root: Path) -> None:
    """Hashes and sizes are right, and a reader would mix two teachers."""
    for part in ("samples", "ledger", "index"):
        for path in (jpeg_root / part).glob("train-000001.*"):
            (cache_copy / part / path.name).unlink()
            shutil.copy(path, cache_copy / part)
    before = file_hashes(cache_copy)
    job = base_job(cache_copy)
    job.adopt(open_cache(cache_copy).manifest.fingerprint)
    with pytest.raises(CacheMismatchError, match=r"train-000001\.h5: the shard was written under the plan"):
        job.is_done("train-000001")
    job.close()
    with pytest.raises(CacheMismatchError, match="written under the plan"):
        extract(tiny_extract(cache_copy))
    assert file_hashes(cache_copy) == before


@pytest.mark.parametrize("part", ["samples", "ledger", "blocks-1-patch-int8"])
def test_a_shard_counts_only_with_all_its_files(cache_copy: Path, part: str) -> None:
    job = group_job(cache_copy) if part.startswith("blocks") else base_job(cache_copy)
    path = job.paths.shard(part, "train-000001")
    overwrite(path, path.read_bytes()[:-1])
    assert not job.is_done("train-000001")
    path.unlink()
    assert not job.is_done("train-000001")
    assert job.is_done("train-000000")
    job.close()


def test_a_shard_without_a_readable_index_is_not_done(cache_copy: Path) -> None:
    paths = CachePaths(cache_copy)
    head = committed(paths, "train-000000")
    assert head is not None
    assert set(head.files) == {"samples", "ledger"}
    assert head.plan == fingerprint_digest(open_cache(cache_copy).manifest.fingerprint)
    overwrite(paths.shard("index", "train-000000"), b"no HDF5")
    assert committed(paths, "train-000000") is None
    assert index_head(paths, "train-000000") is None
    assert committed(paths, "train-000099") is None
    assert index_head(paths, "train-000099") is None


def test_an_index_names_its_files_whether_they_are_there_or_not(cache_copy: Path) -> None:
    paths = CachePaths(cache_copy)
    head = committed(paths, "train-000001")
    paths.shard("samples", "train-000001").unlink()
    assert committed(paths, "train-000001") is None
    assert index_head(paths, "train-000001") == head


def test_what_lies_of_an_unfinished_shard_is_cleared(cache_copy: Path) -> None:
    job = base_job(cache_copy)
    before = file_hashes(cache_copy)
    with pytest.raises(CacheBusyError, match="another job has finished shard train-000001 meanwhile"):
        job.clear("train-000001", ["samples", "ledger"])
    assert file_hashes(cache_copy) == before
    (cache_copy / "ledger" / "train-000001.json").unlink()
    job.clear("train-000001", ["samples", "ledger"])
    for part in ("samples", "ledger", "index"):
        assert [path.stem for path in sorted((cache_copy / part).iterdir())] == ["train-000000", "train-000002"]
    job.close()


def test_attempts_are_counted_in_the_cache(tmp_path: Path) -> None:
    for expected in (1, 2, 3):
        job = base_job(tmp_path / "c", f"job {expected}")
        assert job.count_attempt("train-000000") == expected
        job.close()


def test_a_finished_run_leaves_no_attempts_and_no_temporaries(groups_root: Path) -> None:
    for root in (groups_root, *(groups_root / name for name in (GROUP, "wide", "pixels"))):
        assert list((root / "job" / "attempts").iterdir()) == []
    assert not [path for path in groups_root.rglob("*") if path.name.endswith(".tmp")]


def test_opening_a_job_clears_what_a_dead_writer_left(cache_copy: Path) -> None:
    import os
    import subprocess

    dead = subprocess.Popen(["true"])
    dead.wait()
    from kdcache import durable

    name = durable._temporary_name("train-000000.tar").replace(str(os.getpid()), str(dead.pid))
    left = [cache_copy / "samples" / name, cache_copy / GROUP / "head-logits-fp16" / name]
    for path in left:
        path.touch()
    base_job(cache_copy).close()
    assert [path.exists() for path in left] == [False, True]
    group_job(cache_copy).close()
    assert [path.exists() for path in left] == [False, False]


@pytest.mark.parametrize("text", [b'{"bad":[{"x":1}]}', b"[]", b"{}", b'{"bad":[1]}'])
def test_a_damaged_ledger_is_named(cache_copy: Path, text: bytes) -> None:
    path = CachePaths(cache_copy).shard("ledger", "train-000000")
    overwrite(path, text)
    with pytest.raises(CorruptCacheError, match=r"train-000000.json: not a ledger"):
        read_ledger(path)
