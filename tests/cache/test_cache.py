import shutil
from pathlib import Path

import numpy as np
import pytest

from kdcache.cache import Cache, open_cache
from kdcache.cache.paths import CachePaths
from kdcache.durable import file_pieces
from kdcache.errors import CacheMismatchError, CorruptCacheError, Remedy, TapError, UsageError
from tests.cache.support import all_faults, forge, rewrite_manifest
from tests.conftest import GROUP, flip_bit

FP16 = f"{GROUP}/blocks-1-patch-fp16"


def test_columns_open_as_strided_arrays(groups_root: Path) -> None:
    cache = open_cache(groups_root)
    assert {column.group for column in cache.columns} == {GROUP, "wide"}
    for column in cache.columns:
        for shard in cache.manifest.shards:
            fields = cache.strided(column, shard).fields()
            decoded = column.make_codec().decode(fields, tuple(column.shape))
            assert decoded.shape == (shard.num_samples * 2, *column.shape)
            assert np.isfinite(decoded).all()


def test_one_tap_under_several_codecs_holds_the_same(tiny_cache: Cache) -> None:
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
    assert tiny_cache.find_column(kind="prefix").name == f"{GROUP}/blocks-1-prefix-fp32"
    assert tiny_cache.find_column(kind="patch", codec="fp32").tap == "blocks.0/patch"


def test_columns_that_could_be_several(tiny_cache: Cache) -> None:
    labels = {
        kind: [column.label for column in tiny_cache.columns if column.kind == kind] for kind in ("patch", "logits")
    }
    with pytest.raises(TapError, match=r"a patch tap could be any of .*blocks.1/patch \(int8\)") as caught:
        tiny_cache.find_column(kind="patch")
    assert caught.value.remedy is Remedy.CHOOSE_COLUMN
    assert caught.value.details == {"wanted": "a patch tap", "held": labels["patch"]}
    with pytest.raises(TapError, match="a logits tap could be any of") as caught:
        tiny_cache.find_column(kind="logits")
    assert caught.value.remedy is Remedy.CHOOSE_COLUMN
    assert caught.value.details == {"wanted": "a logits tap", "held": labels["logits"]}


def test_a_column_that_is_not_there(tiny_cache: Cache) -> None:
    held = [column.label for column in tiny_cache.columns]
    with pytest.raises(
        TapError, match=r"no column for blocks.9/patch; the cache holds .*blocks.1/patch \(int8\)"
    ) as caught:
        tiny_cache.find_column(kind="patch", tap="blocks.9/patch")
    assert caught.value.remedy is Remedy.ADD_COLUMN
    assert caught.value.details == {"wanted": "blocks.9/patch", "held": held, "tap": "blocks.9/patch"}
    with pytest.raises(TapError, match="no column for a logits tap with codec fp32") as caught:
        tiny_cache.find_column(kind="logits", codec="fp32")
    assert caught.value.remedy is Remedy.ADD_COLUMN
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


def test_a_group_decides_between_teachers_and_without_one_both_are_listed(groups_root: Path) -> None:
    cache = open_cache(groups_root)
    assert cache.find_column(kind="logits", codec="fp16", group="wide").name == "wide/head-logits-fp16"
    with pytest.raises(TapError, match=rf"{GROUP}:head/logits \(fp16\), wide:head/logits \(fp16\)") as caught:
        cache.find_column(kind="logits", codec="fp16")
    assert caught.value.remedy is Remedy.CHOOSE_COLUMN
    with pytest.raises(UsageError, match=f"no group 'narrow'; it holds pixels, {GROUP}, wide"):
        cache.find_column(kind="logits", group="narrow")


def test_a_column_is_named_in_full_or_by_its_own_name_while_one_group_has_it(groups_root: Path) -> None:
    cache = open_cache(groups_root)
    assert cache.column(FP16).name == cache.column("blocks-1-patch-fp16").name == FP16
    assert cache.column("wide/blocks-1-patch-int8").shape == [16, 36]
    assert cache.column("raw") == cache.pixel_column
    with pytest.raises(UsageError, match=r"2 columns 'head-logits-fp16'; it holds .*wide/head-logits-fp16"):
        cache.column("head-logits-fp16")
    with pytest.raises(UsageError, match=r"no column 'nope'; it holds pixels/raw, "):
        cache.column("nope")


def test_stored_pixels_are_no_column_of_a_teacher(groups_root: Path, tiny_cache: Cache) -> None:
    cache = open_cache(groups_root)
    assert tiny_cache.pixel_column is None
    assert cache.pixel_column is not None
    assert cache.pixel_column.name == "pixels/raw"
    assert cache.pixel_column not in cache.columns


def test_deleting_the_folder_of_a_group_deletes_the_group_and_nothing_else(groups_copy: Path) -> None:
    whole = open_cache(groups_copy)
    shutil.rmtree(groups_copy / GROUP)
    cache = open_cache(groups_copy)
    assert list(cache.groups) == ["pixels", "wide"]
    assert cache.digest == whole.digest
    assert cache.identity(cache.columns) == whole.identity(whole.groups["wide"].columns)
    assert cache.unusable == {}


def test_a_group_of_another_base_is_named_and_the_others_work(groups_copy: Path) -> None:
    rewrite_manifest(open_cache(groups_copy).groups["wide"].paths, lambda m: m.update(base="ab" * 32))
    cache = open_cache(groups_copy)
    assert list(cache.groups) == ["pixels", GROUP]
    assert isinstance(cache.unusable["wide"], CacheMismatchError)
    with pytest.raises(CacheMismatchError, match=r"wide: made for the base abab"):
        cache.group("wide")
    with pytest.raises(TapError, match=r"group wide cannot be used: .*made for the base"):
        cache.find_column(kind="patch", tap="blocks.9/patch")
    assert cache.find_column(kind="logits", codec="fp16").group == GROUP


def test_an_identity_names_what_is_streamed_and_nothing_else(groups_copy: Path, tiny_cache: Cache) -> None:
    """A group that comes or goes is no other stream of the columns of the others."""
    cache = open_cache(groups_copy)
    own = cache.groups[GROUP].columns
    assert cache.identity(own[:1]) == cache.identity(own[::-1]) == tiny_cache.identity(tiny_cache.columns)
    assert len({cache.identity([]), cache.identity(own), cache.identity(cache.columns)}) == 3
    flip_bit(cache.groups["wide"].paths.manifest, 10)
    assert open_cache(groups_copy).identity(own) == cache.identity(own)


def test_a_good_shard_passes(groups_root: Path) -> None:
    cache = open_cache(groups_root)
    shard = cache.manifest.shards[0]
    columns = [column for group in cache.groups.values() for column in group.columns]
    cache.check_shard(shard, cache.index(shard), columns)
    for part in ("samples", "ledger", *(column.name for column in columns)):
        cache.check_hash(part, shard, lambda _: None, file_pieces(cache.path(part, shard)))


def test_a_flipped_bit_is_found_by_its_hash(cache_copy: Path) -> None:
    cache = open_cache(cache_copy)
    shard, columns = cache.manifest.shards[0], cache.columns
    index = cache.index(shard)
    strided = cache.strided(columns[0], shard)
    flip_bit(strided.path, strided.payload_offset(3) + 5)
    with pytest.raises(CorruptCacheError, match=r"train-000000.tar: bytes differ"):
        cache.check_hash(columns[0].name, shard, lambda _: None, file_pieces(strided.path))
    cache.check_shard(shard, index, columns)


def test_the_indexes_are_hashed_before_they_are_opened(cache_copy: Path) -> None:
    cache = open_cache(cache_copy)
    shard, group = cache.manifest.shards[0], cache.groups[GROUP]
    flip_bit(cache.paths.shard("index", shard.name), 3000)
    with pytest.raises(CorruptCacheError, match="not the index the manifest names"):
        cache.index(shard)
    assert len(cache.group_index(group, shard).columns) == 7
    flip_bit(group.paths.shard("index", shard.name), 3000)
    with pytest.raises(CorruptCacheError, match="not the index the manifest names"):
        cache.group_index(group, shard)


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
    column = cache.find_column(kind="patch", codec="fp16")
    first, second = (cache.path(column.name, shard) for shard in cache.manifest.shards[:2])
    other = first.with_name("other")
    first.rename(other), second.rename(first), other.rename(second)
    shard = cache.manifest.shards[0]
    with pytest.raises(CorruptCacheError, match=r"record 0 is 'digit-\d+.v00.npy', wanted 'digit-\d+.v00.npy'"):
        cache.check_shard(shard, cache.index(shard), [column])


def test_damage_is_found_at_memory_speed(cache_copy: Path) -> None:
    cache = open_cache(cache_copy)
    shard = cache.manifest.shards[1]
    path = cache.paths.shard("samples", shard.name)
    read: list[int] = []
    cache.check_hash("samples", shard, read.append, file_pieces(path))
    assert sum(read) == path.stat().st_size
    flip_bit(path, 1000)
    with pytest.raises(CorruptCacheError, match=r"train-000001.tar: bytes differ.*XXH3"):
        cache.check_hash("samples", shard, read.append, file_pieces(path))


@pytest.mark.parametrize("group", ["", GROUP])
def test_a_shard_of_another_plan_is_not_read(cache_copy: Path, group: str) -> None:
    """Manifest, hashes and sizes agree; only the plan that the index names does not."""
    part = f"{group}/head-logits-fp16" if group else "ledger"
    own = CachePaths(cache_copy).group(group) if group else CachePaths(cache_copy)
    data = own.shard(part.rpartition("/")[2], "train-000001").read_bytes()
    forge(cache_copy, "train-000001", part, data, lambda index: setattr(index, "plan", "ab" * 32))
    cache = open_cache(cache_copy)
    shard = cache.manifest.shards[1]
    with pytest.raises(CorruptCacheError, match=r"train-000001\.h5: written under the plan abababababab"):
        cache.group_index(cache.groups[group], shard) if group else cache.index(shard)
    assert any("written under the plan" in fault.problem for fault in all_faults(cache_copy))


def test_labels_that_are_not_the_plans_are_found(cache_copy: Path) -> None:
    data = CachePaths(cache_copy).shard("ledger", "train-000001").read_bytes()
    forge(
        cache_copy, "train-000001", "ledger", data, lambda index: index.labels.__setitem__(0, 1 - index.labels[0] % 2)
    )
    assert "the labels of all shards are not the ones of the plan" in [each.problem for each in all_faults(cache_copy)]
