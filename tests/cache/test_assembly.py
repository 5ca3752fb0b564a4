from pathlib import Path

import numpy as np
import pytest

from kdcache.cache import Cache, open_cache
from kdcache.cache.assembly import assemble_base, assemble_group
from kdcache.cache.facts import FileFacts
from kdcache.cache.group_index import group_index_bytes, read_group_index
from kdcache.cache.index import index_bytes, read_index
from kdcache.cache.paths import CachePaths
from kdcache.errors import CacheMismatchError, CorruptCacheError, IncompleteCacheError, Remedy
from tests.cache.support import overwrite
from tests.conftest import GROUP


def names(cache: Cache) -> list[str]:
    return [shard.name for shard in cache.manifest.shards]


def test_manifests_are_made_of_the_indexes_alone(groups_root: Path) -> None:
    cache = open_cache(groups_root)
    assert assemble_base(cache.paths, cache.manifest.fingerprint, names(cache)) == cache.manifest
    for group in cache.groups.values():
        made = assemble_group(group.paths, group.manifest.fingerprint, cache.manifest, cache.digest)
        assert made == group.manifest


def test_it_names_every_file_with_its_hash(tiny_cache: Cache) -> None:
    for shard in tiny_cache.manifest.shards:
        for part, facts in shard.files.items():
            assert FileFacts.read(tiny_cache.path(part, shard)) == facts


def test_a_summary_is_that_of_all_records(tiny_cache: Cache) -> None:
    column = tiny_cache.find_column(kind="patch", codec="fp32")
    values = np.concatenate(
        [tiny_cache.strided(column, shard).fields()["values"] for shard in tiny_cache.manifest.shards]
    ).astype(np.float64)
    found = tiny_cache.groups[GROUP].manifest.columns[column.facts.name]
    assert (found.minimum, found.maximum) == (values.min(), values.max())
    assert found.rms == pytest.approx(np.sqrt(np.square(values).mean()), rel=1e-9)
    assert found.num_tokens == values.size // 24
    assert found.fidelity["relative_error"] == 0.0


def test_one_shard_of_unknown_fidelity_makes_it_unknown(cache_copy: Path) -> None:
    """That of the other shards alone would be another figure of the same name."""
    cache = open_cache(cache_copy)
    group = cache.groups[GROUP]
    path = group.paths.shard("index", "train-000001")
    index = read_group_index(path)
    index.columns["blocks-1-patch-int8"].fidelity = None
    overwrite(path, group_index_bytes(index))
    made = assemble_group(group.paths, group.manifest.fingerprint, cache.manifest, cache.digest)
    assert made.columns["blocks-1-patch-int8"].fidelity == {}
    assert made.columns["blocks-1-patch-fp16"] == group.manifest.columns["blocks-1-patch-fp16"]


def test_a_column_that_lacks_records_makes_no_manifest(cache_copy: Path) -> None:
    """Whoever committed it: the index and its files agree, and the shard is short all the same."""
    cache = open_cache(cache_copy)
    group = cache.groups[GROUP]
    path = group.paths.shard("index", "train-000001")
    index = read_group_index(path)
    for name in ("crc32", "column_sums", "sum_of_squares"):
        setattr(index.columns["head-logits-fp16"], name, getattr(index.columns["head-logits-fp16"], name)[:-1])
    overwrite(path, group_index_bytes(index))
    message = "shard train-000001 has 15 records of column head-logits-fp16, 16 are wanted"
    with pytest.raises(CorruptCacheError, match=message) as caught:
        assemble_group(group.paths, group.manifest.fingerprint, cache.manifest, cache.digest)
    assert caught.value.remedy is Remedy.REPAIR


def test_an_image_that_is_neither_stored_nor_in_the_ledger_makes_no_manifest(cache_copy: Path) -> None:
    cache = open_cache(cache_copy)
    path = cache.paths.shard("index", "train-000002")
    index = read_index(path)
    for name, values in vars(index).items():
        if name not in ("plan", "files"):
            setattr(index, name, values[:-1])
    overwrite(path, index_bytes(index))
    with pytest.raises(CorruptCacheError, match="train-000002 holds 3 images and its ledger names 0, 4 were planned"):
        assemble_base(CachePaths(cache_copy), cache.manifest.fingerprint, names(cache))


def test_shards_of_two_plans_make_no_manifest(cache_copy: Path, jpeg_root: Path) -> None:
    cache = open_cache(cache_copy)
    for part, extension in (("samples", "tar"), ("ledger", "json"), ("index", "h5")):
        overwrite(
            cache.paths.shard(part, "train-000001"), (jpeg_root / part / f"train-000001.{extension}").read_bytes()
        )
    with pytest.raises(CacheMismatchError, match=r"train-000001\.h5: the shard was written under the plan"):
        assemble_base(cache.paths, cache.manifest.fingerprint, names(cache))


def test_an_unfinished_shard_is_named(cache_copy: Path) -> None:
    cache = open_cache(cache_copy)
    cache.paths.shard("samples", "train-000001").unlink()
    with pytest.raises(IncompleteCacheError, match="train-000001 is not finished"):
        assemble_base(CachePaths(cache_copy), cache.manifest.fingerprint, names(cache))
    group = cache.groups[GROUP]
    group.paths.shard("index", "train-000002").unlink()
    with pytest.raises(IncompleteCacheError, match="train-000002 is not finished"):
        assemble_group(group.paths, group.manifest.fingerprint, cache.manifest, cache.digest)
