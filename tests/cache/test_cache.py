from pathlib import Path

import msgspec
import numpy as np
import pytest

from kdcache.cache import Cache, open_cache
from kdcache.errors import CorruptCacheError, Remedy, TapError, UsageError
from tests.conftest import flip_bit


def test_columns_open_as_strided_arrays(tiny_cache: Cache) -> None:
    for column in tiny_cache.columns:
        for shard in tiny_cache.manifest.shards:
            fields = tiny_cache.strided(column, shard).fields()
            decoded = column.make_codec().decode(fields, tuple(column.shape))
            assert decoded.shape == (shard.num_samples * 2, *column.shape)
            assert np.isfinite(decoded).all()


def test_one_tap_under_several_codecs_says_the_same(tiny_cache: Cache) -> None:
    shard = tiny_cache.manifest.shards[0]
    decoded = {
        codec: column.make_codec().decode(tiny_cache.strided(column, shard).fields(), tuple(column.shape))
        for codec in ("fp16", "int8", "bf16")
        for column in [tiny_cache.find_column(kind="patch", tap="blocks.1/patch", codec=codec)]
    }
    scale = np.abs(decoded["fp16"]).max()
    assert np.abs(decoded["int8"] - decoded["fp16"]).max() < scale / 100
    assert np.abs(decoded["bf16"] - decoded["fp16"]).max() < scale / 100


def test_columns_are_found_or_listed(tiny_cache: Cache) -> None:
    assert tiny_cache.find_column(kind="prefix").name == "blocks-0-prefix-fp32".replace("0", "1")
    assert tiny_cache.find_column(kind="patch", codec="fp32").tap == "blocks.0/patch"


def test_columns_that_could_be_several(tiny_cache: Cache) -> None:
    labels = {
        kind: [column.label for column in tiny_cache.columns if column.kind == kind] for kind in ("patch", "logits")
    }
    with pytest.raises(TapError, match=r"a patch tap could be any of .*blocks.1/patch \(int8\)") as caught:
        tiny_cache.find_column(kind="patch")
    assert caught.value.remedy is Remedy.CHOOSE_FEATURES
    assert caught.value.details == {"wanted": "a patch tap", "held": labels["patch"]}
    with pytest.raises(TapError, match="a logits tap could be any of") as caught:
        tiny_cache.find_column(kind="logits")
    assert caught.value.remedy is Remedy.CHOOSE_LOGITS
    assert caught.value.details == {"wanted": "a logits tap", "held": labels["logits"]}


def test_a_column_that_is_not_there(tiny_cache: Cache) -> None:
    held = [column.label for column in tiny_cache.columns]
    with pytest.raises(
        TapError, match=r"no column for blocks.9/patch; the cache holds .*blocks.1/patch \(int8\)"
    ) as caught:
        tiny_cache.find_column(kind="patch", tap="blocks.9/patch")
    assert caught.value.remedy is Remedy.ADD_FEATURES
    assert caught.value.details == {"wanted": "blocks.9/patch", "held": held, "tap": "blocks.9/patch"}
    with pytest.raises(TapError, match="no column for a logits tap with codec fp32") as caught:
        tiny_cache.find_column(kind="logits", codec="fp32")
    assert caught.value.remedy is Remedy.ADD_LOGITS
    assert caught.value.details["tap"] == "head/logits"


def test_names_that_are_not_there_list_the_held(tiny_cache: Cache) -> None:
    with pytest.raises(UsageError, match=r"no column 'nope'; it holds .*head-logits") as caught:
        tiny_cache.column("nope")
    assert caught.value.remedy is Remedy.NAME_HELD
    assert caught.value.details == {"wanted": "nope", "held": [column.name for column in tiny_cache.columns]}
    with pytest.raises(UsageError, match="no group 'nope'; it holds") as caught:
        tiny_cache.group("nope")
    assert caught.value.remedy is Remedy.NAME_HELD
    assert caught.value.details == {"wanted": "nope", "held": list(tiny_cache.groups)}


def test_a_good_shard_passes(tiny_cache: Cache) -> None:
    shard = tiny_cache.manifest.shards[0]
    columns = tiny_cache.columns
    tiny_cache.check_shard(shard, tiny_cache.index(shard), columns)
    for part in ("samples", *(column.name for column in columns)):
        tiny_cache.check_hash(part, shard, lambda _: None)


def test_a_flipped_bit_is_found_by_its_hash(cache_copy: Path) -> None:
    cache = open_cache(cache_copy)
    shard, columns = cache.manifest.shards[0], cache.columns
    index = cache.index(shard)
    strided = cache.strided(columns[0], shard)
    flip_bit(strided.path, strided.payload_offset(3) + 5)
    with pytest.raises(CorruptCacheError, match=r"train-000000.tar: bytes differ"):
        cache.check_hash(columns[0].name, shard, lambda _: None)
    cache.check_shard(shard, index, columns)


def test_the_index_is_hashed_before_it_is_opened(cache_copy: Path) -> None:
    cache = open_cache(cache_copy)
    flip_bit(cache.paths.shard("index", "train-000000"), 3000)
    with pytest.raises(CorruptCacheError, match="not the index the manifest names"):
        cache.index(cache.manifest.shards[0])


def test_links_truncation_and_absence(cache_copy: Path, tiny_root: Path) -> None:
    cache = open_cache(cache_copy)
    paths = [cache.paths.shard("samples", shard.name) for shard in cache.manifest.shards]
    paths[0].unlink()
    paths[0].symlink_to(tiny_root / "samples" / "train-000000.tar")
    paths[1].unlink()
    paths[2].chmod(0o644)
    paths[2].write_bytes(paths[2].read_bytes()[:-512])
    for shard, message in zip(cache.manifest.shards, ["missing", "missing", r"bytes found, \d+ wanted"], strict=True):
        with pytest.raises(CorruptCacheError, match=message):
            cache.check_size("samples", shard)


def test_swapped_shards_disagree_by_key(cache_copy: Path) -> None:
    cache = open_cache(cache_copy)
    first, second = (cache.paths.shard("blocks-1-patch-fp16", name) for name in ("train-000000", "train-000001"))
    other = first.with_name("other")
    first.rename(other), second.rename(first), other.rename(second)
    shard = cache.manifest.shards[0]
    with pytest.raises(CorruptCacheError, match=r"record 0 is 'digit-\d+.v00.npy', wanted 'digit-\d+.v00.npy'"):
        cache.check_shard(shard, cache.index(shard), [cache.find_column(kind="patch", codec="fp16")])


@pytest.mark.parametrize("is_old", [False, True])
def test_damage_is_found_by_either_hash(cache_copy: Path, is_old: bool) -> None:
    """With XXH3 where the cache has it, with sha256 where it is from before."""
    cache = open_cache(cache_copy)
    shard = cache.manifest.shards[1]
    if is_old:
        shard = msgspec.structs.replace(
            shard, files={part: msgspec.structs.replace(facts, xxh3="") for part, facts in shard.files.items()}
        )
    else:
        assert all(facts.xxh3 for facts in shard.files.values())
    path = cache.paths.shard("samples", shard.name)
    read: list[int] = []
    cache.check_hash("samples", shard, read.append)
    assert sum(read) == path.stat().st_size
    flip_bit(path, 1000)
    with pytest.raises(CorruptCacheError, match=r"train-000001.tar: bytes differ"):
        cache.check_hash("samples", shard, read.append)
