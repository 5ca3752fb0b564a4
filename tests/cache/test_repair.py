from pathlib import Path

import pytest

from kdcache.cache import BaseFingerprint, GroupFingerprint, open_cache
from kdcache.cache.job import Job
from kdcache.cache.repair import move_aside_base, move_aside_group
from kdcache.errors import IncompleteCacheError
from kdcache.teacher.extract import extract
from kdcache.teacher.model import Teacher
from tests.conftest import GROUP, file_hashes, flip_bit, tiny_add, tiny_extract


def set_aside(root: Path, group: str, shards: list[str]) -> None:
    cache = open_cache(root)
    if group:
        own = cache.group(group)
        job = Job(own.paths, "repair", GroupFingerprint)
        move_aside_group(job, own.manifest.fingerprint, shards)
    else:
        job = Job(cache.paths, "repair", BaseFingerprint)
        move_aside_base(job, cache.manifest.fingerprint, shards)
    job.close()


@pytest.fixture
def forwards(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the batches the teacher runs on, but for the one black image that finds the shapes."""
    sizes: list[int] = []
    original = Teacher.outputs

    def counted(self: Teacher, pixels: object) -> object:
        if pixels.any():
            sizes.append(len(pixels))
        return original(self, pixels)

    monkeypatch.setattr(Teacher, "outputs", counted)
    return sizes


def test_a_damaged_shard_of_a_group_is_written_again(groups_copy: Path, forwards: list[int]) -> None:
    before = file_hashes(groups_copy)
    damaged = groups_copy / GROUP / "blocks-1-patch-int8" / "train-000002.tar"
    flip_bit(damaged, 3000)
    set_aside(groups_copy, GROUP, ["train-000002"])
    assert not damaged.exists()
    assert (groups_copy / GROUP / "job" / "damaged" / "blocks-1-patch-int8" / "train-000002.tar").is_file()
    cache = open_cache(groups_copy)
    assert isinstance(cache.unusable[GROUP], IncompleteCacheError)
    assert list(cache.groups) == ["pixels", "wide"]
    report = extract(tiny_extract(groups_copy))
    assert (report.num_shards, report.num_skipped, sum(forwards)) == (1, 2, 8)
    assert file_hashes(groups_copy) == before


def test_a_damaged_shard_of_the_base_needs_no_teacher(groups_copy: Path, forwards: list[int]) -> None:
    """And the groups stay as they are, and fit again once it is back."""
    before = file_hashes(groups_copy)
    flip_bit(groups_copy / "samples" / "train-000001.tar", 3000)
    set_aside(groups_copy, "", ["train-000001"])
    with pytest.raises(IncompleteCacheError, match="has not finished"):
        open_cache(groups_copy)
    report = extract(tiny_extract(groups_copy))
    assert (report.num_shards, report.num_skipped, forwards) == (1, 2, [])
    assert file_hashes(groups_copy) == before


def test_a_damaged_shard_of_an_added_group_is_written_by_the_same_add(groups_copy: Path, forwards: list[int]) -> None:
    before = file_hashes(groups_copy)
    flip_bit(groups_copy / "wide" / "head-logits-fp16" / "train-000000.tar", 700)
    set_aside(groups_copy, "wide", ["train-000000"])
    report = extract(tiny_add(groups_copy))
    assert (report.num_shards, report.num_skipped, sum(forwards)) == (1, 2, 16)
    assert file_hashes(groups_copy) == before


def test_stored_pixels_are_repaired_without_a_teacher(groups_copy: Path, forwards: list[int]) -> None:
    before = file_hashes(groups_copy)
    set_aside(groups_copy, "pixels", ["train-000000", "train-000002"])
    report = extract(tiny_add(groups_copy, teacher=None, group=None, pixels="raw", batch_size=5))
    assert (report.num_shards, forwards) == (2, [])
    assert file_hashes(groups_copy) == before
