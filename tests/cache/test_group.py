import shutil
from pathlib import Path
from typing import Any

import pytest

from kdcache.cache import open_cache
from kdcache.cache.base import read_base
from kdcache.cache.group import read_group
from kdcache.cache.paths import CachePaths
from kdcache.errors import CacheMismatchError, CorruptCacheError, IncompleteCacheError, Remedy
from tests.cache.support import rewrite_manifest
from tests.conftest import GROUP


def read(root: Path, name: str = GROUP) -> Any:
    return read_group(CachePaths(root).group(name), *read_base(CachePaths(root)))


def test_it_names_its_base_its_teacher_and_its_files(groups_root: Path) -> None:
    manifest, digest = read(groups_root, "wide")
    assert manifest.base == open_cache(groups_root).digest
    assert len(digest) == 64
    assert (manifest.fingerprint.batch_size, manifest.fingerprint.teacher.precision) == (5, "bf16")
    assert manifest.fingerprint.column("head-logits-fp16").kind == "logits"
    files = [groups_root / "wide" / "head-logits-fp16" / f"{shard.name}.tar" for shard in manifest.shards]
    assert manifest.part_bytes("head-logits-fp16") == sum(path.stat().st_size for path in files)


def test_stored_pixels_have_no_teacher(groups_root: Path) -> None:
    manifest, _ = read(groups_root, "pixels")
    assert manifest.fingerprint.teacher is None
    assert manifest.columns == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m["fingerprint"].update(batch_size="6"), "batch_size"),
        (lambda m: m["fingerprint"]["columns"][0].update(name="/abs"), "cannot name"),
        (lambda m: m["fingerprint"]["columns"][0].update(name="index"), "cannot name"),
        (lambda m: m["fingerprint"]["columns"][1].update(name="blocks-1-patch-fp16"), "named twice"),
        (lambda m: m["shards"][0].update(name="../../etc"), "3 shards that are not, in order, the 3 of the base"),
        (lambda m: m["shards"].append(m["shards"][0]), "4 shards that are not, in order, the 3 of the base"),
        (lambda m: m["fingerprint"]["columns"][0].update(codec="fp3"), "has codec 'fp3', this kdcache reads"),
        (lambda m: m["fingerprint"]["columns"][0].update(shape=[16, 100]), "stride_bytes is 1536"),
        (lambda m: m["shards"][0]["files"].pop("index"), "lists"),
    ],
)
def test_hostile_manifests_are_refused(cache_copy: Path, change: Any, message: str) -> None:
    rewrite_manifest(CachePaths(cache_copy).group(GROUP), change)
    with pytest.raises((CorruptCacheError, CacheMismatchError), match=message):
        read(cache_copy)


def test_a_group_of_another_base_is_refused(cache_copy: Path) -> None:
    rewrite_manifest(CachePaths(cache_copy).group(GROUP), lambda m: m.update(base="ab" * 32))
    digest = open_cache(cache_copy).digest
    with pytest.raises(
        CacheMismatchError, match=f"made for the base abababababab…, the one beside it is {digest[:12]}"
    ) as caught:
        read(cache_copy)
    assert caught.value.remedy is Remedy.RESTORE_BASE_OR_DELETE_GROUP
    assert caught.value.details == {"group": GROUP}


def test_a_group_with_other_shards_is_refused(cache_copy: Path) -> None:
    rewrite_manifest(CachePaths(cache_copy).group(GROUP), lambda m: m["shards"].pop())
    with pytest.raises(CorruptCacheError, match="2 shards that are not, in order, the 3 of the base") as caught:
        read(cache_copy)
    assert caught.value.remedy is Remedy.REBUILD


def test_an_unfinished_group_is_reported_as_one(cache_copy: Path) -> None:
    (cache_copy / GROUP / "manifest.json").unlink()
    with pytest.raises(IncompleteCacheError, match="has not finished"):
        read(cache_copy)
    shutil.rmtree(cache_copy / GROUP)
    assert open_cache(cache_copy).groups == {}
