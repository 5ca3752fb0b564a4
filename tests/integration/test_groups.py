"""Column groups are independent: one is added, refused, damaged or deleted, and nothing else changes."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdcache.cache import open_cache
from kdcache.cli.main import main
from kdcache.errors import CacheMismatchError, IncompleteCacheError, Remedy, UsageError
from kdcache.stream.config import StreamConfig
from kdcache.stream.loader import CacheLoader
from kdcache.teacher.extract import extract
from tests.conftest import GROUP, file_hashes, tiny_add, tiny_extract


def times(root: Path) -> dict[str, int]:
    return {name: (root / name).stat().st_mtime_ns for name in file_hashes(root)}


def test_adding_a_teacher_and_pixels_changes_no_existing_file(cache_copy: Path) -> None:
    before, changed = file_hashes(cache_copy), times(cache_copy)
    report = extract(tiny_add(cache_copy, pixels="raw"))
    assert list(report.groups) == ["wide", "pixels"]
    after = file_hashes(cache_copy)
    assert {name: after[name] for name in before} == before
    assert {name: times(cache_copy)[name] for name in before} == changed
    assert {name.split("/")[0] for name in after.keys() - before.keys()} == {"wide", "pixels"}
    wide = report.groups["wide"].fingerprint
    assert wide.teacher is not None
    assert (wide.columns[0].shape, wide.teacher.precision, wide.batch_size) == ([16, 36], "bf16", 5)
    assert main(["verify", str(cache_copy)]) == 0


def test_one_pass_and_an_add_give_the_same_pixels(groups_root: Path, tmp_path: Path) -> None:
    extract(tiny_extract(tmp_path / "c", pixels="raw"))
    one, two = open_cache(tmp_path / "c"), open_cache(groups_root)
    assert one.digest == two.digest
    for shard in one.manifest.shards:
        ours, theirs = (cache.strided(cache.column("pixels/raw"), shard).payloads() for cache in (one, two))
        assert ours.shape == (2 * shard.num_samples, 16 * 16 * 3)
        assert ours.any(axis=1).all()
        np.testing.assert_array_equal(ours, theirs)
        first, second = (cache.group_index(cache.group("pixels"), shard).pixels["raw"] for cache in (one, two))
        np.testing.assert_array_equal(first.crc32, second.crc32)


def test_a_deleted_group_leaves_the_others_whole(groups_copy: Path) -> None:
    shutil.rmtree(groups_copy / GROUP)
    assert main(["verify", str(groups_copy)]) == 0
    cache = open_cache(groups_copy)
    batches = [batch.clone() for batch in CacheLoader(cache, cache.columns, StreamConfig(batch_size=20, num_threads=1))]
    assert set(batches[0].targets) == {"wide/blocks-1-patch-int8", "wide/head-logits-fp16"}
    report = extract(tiny_extract(groups_copy))
    assert report.num_shards == 3
    assert list(open_cache(groups_copy).groups) == ["pixels", GROUP, "wide"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 4}, "batch_size: the cache has 5, this run wants 4"),
        ({"precision": "fp32"}, "teacher.precision: the cache has 'bf16', this run wants 'fp32'"),
        ({"taps": ("head/logits",)}, "columns: the cache has blocks-1-patch-int8, head-logits-fp16, this run wants"),
    ],
)
def test_another_plan_for_a_group_is_refused(groups_root: Path, changes: dict[str, Any], message: str) -> None:
    before = file_hashes(groups_root)
    with pytest.raises(CacheMismatchError, match=message) as caught:
        extract(tiny_add(groups_root, **changes))
    assert caught.value.remedy is Remedy.SAME_PLAN
    assert file_hashes(groups_root) == before


def test_an_unfinished_base_takes_no_group(cache_copy: Path, tmp_path: Path) -> None:
    (cache_copy / "manifest.json").unlink()
    with pytest.raises(IncompleteCacheError, match="has not finished"):
        extract(tiny_add(cache_copy))
    with pytest.raises(IncompleteCacheError, match="no such folder"):
        extract(tiny_add(tmp_path / "nowhere"))
    assert not (cache_copy / "wide").exists()
    assert not (tmp_path / "nowhere").exists()


def test_another_view_size_does_not_fit(cache_copy: Path) -> None:
    """The base's views are 16 pixels wide; a teacher made for 32 says so before it computes."""
    with pytest.raises(UsageError, match=r"16.*img_size=32"):
        extract(tiny_add(cache_copy, teacher_kwargs={**tiny_add(cache_copy).teacher_kwargs, "img_size": 32}))


def test_a_second_teacher_without_add_is_told_of_add(tiny_root: Path) -> None:
    with pytest.raises(CacheMismatchError, match=r"has no group 'other'.*\n(.|\n)*views.seed") as caught:
        extract(replace(tiny_extract(tiny_root), group="other", seed=1))
    assert caught.value.remedy is Remedy.ADD_GROUP


def test_adding_again_does_nothing(groups_root: Path) -> None:
    before = times(groups_root)
    report = extract(tiny_add(groups_root, pixels="raw"))
    assert (report.num_shards, report.num_skipped) == (0, 3)
    tars = [name for name in before if name.endswith((".tar", ".h5"))]
    assert {name: times(groups_root)[name] for name in tars} == {name: before[name] for name in tars}


def test_a_teacher_added_to_jpeg_views_sees_the_jpeg(jpeg_root: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(jpeg_root, tmp_path / "c"))
    first = tiny_extract(root)
    extract(tiny_add(root, teacher_kwargs=first.teacher_kwargs, precision="auto", batch_size=6, taps=("head/logits",)))
    cache = open_cache(root)
    for shard in cache.manifest.shards:
        ours, theirs = (cache.strided(cache.column(f"{name}/head-logits-fp16"), shard) for name in (GROUP, "wide"))
        assert (ours.payloads() == theirs.payloads()).all()
    assert main(["verify", str(root)]) == 0
