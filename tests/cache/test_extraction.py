from pathlib import Path

import pytest

from kdcache.cache import Extraction, open_cache
from kdcache.cache.extraction import ShardTask
from kdcache.errors import CacheBusyError, CacheMismatchError, IncompleteCacheError
from kdcache.teacher.extract import extract
from tests.conftest import GROUP, file_hashes, tiny_add


def opened(root: Path, *groups: str, writes_base: bool = False, job_id: str = "job") -> Extraction:
    cache = open_cache(root)
    chosen = {name: cache.groups[name].manifest.fingerprint for name in groups}
    return Extraction(root, cache.manifest.fingerprint, chosen, job_id, writes_base=writes_base)


def file_facts(root: Path) -> dict[str, tuple[int, int]]:
    """Inode and modification time of every file of a cache but those of running jobs."""
    paths = [path for path in root.rglob("*") if path.is_file() and "job" not in path.parts]
    return {path.relative_to(root).as_posix(): (path.stat().st_ino, path.stat().st_mtime_ns) for path in paths}


def test_a_finished_cache_has_nothing_pending(groups_root: Path) -> None:
    before = file_hashes(groups_root)
    extraction = opened(groups_root, GROUP, "pixels", writes_base=True)
    assert [extraction.task(shard) for shard in extraction.planned()] == [None] * 3
    finished = extraction.finish()
    assert finished is not None
    assert list(finished[1]) == [GROUP, "pixels"]
    extraction.close()
    assert file_hashes(groups_root) == before


def test_what_is_pending_is_named_base_and_groups_apart(groups_copy: Path) -> None:
    cache = open_cache(groups_copy)
    (groups_copy / "index" / "train-000000.h5").unlink()
    (groups_copy / "wide" / "index" / "train-000001.h5").unlink()
    extraction = Extraction(
        groups_copy, cache.manifest.fingerprint, {n: g.manifest.fingerprint for n, g in cache.groups.items()}, "job",
        writes_base=True,
    )  # fmt: skip
    first, second, third = extraction.planned()
    assert extraction.task(first) == ShardTask(first, True, ())
    assert extraction.task(second) == ShardTask(second, False, ("wide",))
    assert extraction.task(third) is None
    assert extraction.finish() is None, "while a shard is pending there is no manifest to write"
    extraction.close()


@pytest.mark.parametrize("part", ["samples", "ledger", f"{GROUP}/blocks-1-patch-int8", "pixels/raw"])
def test_a_shard_that_lost_a_file_is_pending_again(groups_copy: Path, part: str) -> None:
    """Between the look at what is pending and the manifests: the next run writes the shard again."""
    extraction = opened(groups_copy, GROUP, "pixels", writes_base=True)
    (found,) = (groups_copy / part).glob("train-000001.*")
    found.unlink()
    assert extraction.finish() is None
    assert [extraction.task(shard) is None for shard in extraction.planned()] == [True, False, True]
    extraction.close()


def test_what_is_written_already_is_not_written_again(groups_copy: Path) -> None:
    """Neither modification times nor inodes change."""
    before = file_facts(groups_copy)
    extraction = opened(groups_copy, GROUP, "wide", "pixels", writes_base=True)
    assert extraction.finish() is not None
    assert file_facts(groups_copy) == before
    changed = {"manifest.json", "wids-samples.json", "wide/manifest.sha256"}
    assert changed < set(before)
    for name in changed:
        (groups_copy / name).write_bytes(b"{}")
    assert extraction.finish() is not None
    after = file_facts(groups_copy)
    assert {name for name in before if after[name] != before[name]} == changed
    extraction.close()


def test_opening_a_shard_clears_what_has_no_index_and_touches_nothing_else(groups_copy: Path) -> None:
    (groups_copy / "wide" / "index" / "train-000001.h5").unlink()
    before = file_hashes(groups_copy)
    cache = open_cache(groups_copy)
    extraction = Extraction(
        groups_copy, cache.manifest.fingerprint, {"wide": cache.groups["wide"].manifest.fingerprint}, "job",
        writes_base=False,
    )  # fmt: skip
    shard = extraction.planned()[1]
    task = extraction.task(shard)
    assert task is not None
    writer = extraction.open_shard(task)
    assert (writer.base, list(writer.groups)) == (None, ["wide"])
    writer.discard()
    extraction.close()
    gone = {name for name in before if name.startswith("wide/") and name.endswith("train-000001.tar")}
    assert len(gone) == 2
    assert file_hashes(groups_copy) == {name: found for name, found in before.items() if name not in gone}


def test_a_shard_that_lacks_an_image_or_a_record_is_not_committed(groups_copy: Path) -> None:
    cache = open_cache(groups_copy)
    (groups_copy / "index" / "train-000001.h5").unlink()
    (groups_copy / "wide" / "index" / "train-000000.h5").unlink()
    groups = {"wide": cache.groups["wide"].manifest.fingerprint}
    extraction = Extraction(groups_copy, cache.manifest.fingerprint, groups, "job", writes_base=True)
    for number, message in ((1, "has 0 images, 8 are wanted"), (0, "has 0 records of wide/blocks-1-patch-int8, 16")):
        task = extraction.task(extraction.planned()[number])
        assert task is not None
        writer = extraction.open_shard(task)
        with pytest.raises(IncompleteCacheError, match=f"shard train-00000{number} {message}"):
            extraction.commit(writer, [])
        writer.discard()
        assert extraction.task(extraction.planned()[number]) == task
    extraction.close()


def test_two_groups_may_be_written_at_once_and_one_may_not_by_two(groups_copy: Path) -> None:
    one = opened(groups_copy, "wide", job_id="one")
    other = opened(groups_copy, GROUP, job_id="other")
    with pytest.raises(CacheBusyError, match=r"pid \d+"):
        opened(groups_copy, "wide", job_id="third")
    with pytest.raises(CacheBusyError, match=r"wide.*pid \d+"):
        extract(tiny_add(groups_copy))
    extract(tiny_add(groups_copy, group="third", taps=("head/logits",)))
    one.close()
    other.close()
    assert list(open_cache(groups_copy).groups) == ["pixels", "third", GROUP, "wide"]


def test_a_refused_group_gives_the_base_back(groups_copy: Path) -> None:
    cache = open_cache(groups_copy)
    wrong = {GROUP: cache.groups["wide"].manifest.fingerprint}
    with pytest.raises(CacheMismatchError, match="teacher"):
        Extraction(groups_copy, cache.manifest.fingerprint, wrong, "one", writes_base=True)
    opened(groups_copy, GROUP, writes_base=True, job_id="two").close()


def test_attempts_are_counted_where_something_is_written(groups_copy: Path) -> None:
    extraction = opened(groups_copy, "wide")
    assert extraction.count_attempt("train-000000") == 1
    assert extraction.attempts("train-000000").parent == groups_copy / "wide" / "job" / "attempts"
    assert extraction.log_path == groups_copy / "wide" / "job" / "runs.jsonl"
    extraction.close()
