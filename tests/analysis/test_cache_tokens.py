from pathlib import Path

import numpy as np
import pytest
import torch

from kdcache.analysis.cache_tokens import CacheTokens, choose_columns
from kdcache.cache import Cache, open_cache
from kdcache.errors import CacheMismatchError, Remedy, UsageError
from kdcache.images import open_source
from kdcache.teacher.extract import extract
from tests.conftest import GROUP, tiny_extract

CPU = torch.device("cpu")


def tokens(cache: Cache, images: int, batch_size: int = 3) -> CacheTokens:
    columns, _ = choose_columns(cache, None)
    return CacheTokens(cache, columns, num_images=images, batch_size=batch_size, device=CPU)


@pytest.mark.parametrize("images", [1, 7, 20, 100])
def test_first_views_of_evenly_spaced_images(tiny_cache: Cache, images: int) -> None:
    source = tokens(tiny_cache, images)
    columns, _ = choose_columns(tiny_cache, None)
    for number, column in enumerate(sorted(columns, key=lambda each: each.tap)):
        everything = np.concatenate(
            [
                column.make_codec().decode(tiny_cache.strided(column, shard).fields(), tuple(column.shape))[::2]
                for shard in tiny_cache.manifest.shards
            ]
        )
        count = min(images, 20)
        found = torch.cat([batch[number] for batch in source.batches()])
        np.testing.assert_array_equal(found, everything[np.arange(count) * 20 // count])
    assert source.facts.num_read == min(images, 20)
    assert [len(batch[0]) for batch in source.batches()][:-1] == [3] * ((min(images, 20) - 1) // 3)


def test_no_images_at_all(tiny_cache: Cache) -> None:
    assert list(tokens(tiny_cache, 0).batches()) == []


def test_images_are_named_for_a_sentence(tiny_cache: Cache, photos: Path, tmp_path: Path) -> None:
    extract(tiny_extract(tmp_path / "cache", data=str(photos), limit=None))
    assert tokens(tiny_cache, 0).facts.data == "digits"
    assert tokens(open_cache(tmp_path / "cache"), 0).facts.data == "the cache"


def test_pictures_need_images(tmp_path: Path) -> None:
    extract(tiny_extract(tmp_path / "cache", images="reference"))
    cache = open_cache(tmp_path / "cache")
    without = tokens(cache, 5).pictures(4)
    assert without.pixels is None
    assert without.features is not None
    assert without.features.shape == (4, 4, 4, 24)
    columns, _ = choose_columns(cache, None)
    source = CacheTokens(cache, columns, num_images=5, batch_size=2, device=CPU, source=open_source("digits:train"))
    found = source.pictures(4)
    assert found.pixels is not None
    assert found.pixels.shape == (4, 16, 16, 3)
    assert found.keys == without.keys


def test_what_cannot_be_chosen_says_what_is_held(tiny_cache: Cache) -> None:
    patch = [column.name for column in tiny_cache.columns if column.kind == "patch"]
    with pytest.raises(UsageError, match="no column 'nothing'; it holds") as unknown:
        choose_columns(tiny_cache, ["nothing"])
    assert unknown.value.remedy is Remedy.NAME_HELD
    with pytest.raises(CacheMismatchError, match="head-logits-fp16 is not of patch tokens; those are") as caught:
        choose_columns(tiny_cache, ["head-logits-fp16"])
    assert caught.value.remedy is Remedy.NAME_HELD
    assert caught.value.details["held"] == patch
    pair = [name for name in patch if "blocks-1" in name][:2]
    with pytest.raises(CacheMismatchError, match="are of the same tap") as caught:
        choose_columns(tiny_cache, pair)
    assert caught.value.remedy is Remedy.NAME_ONE_COLUMN
    assert caught.value.details["wanted"] == pair


def test_a_cache_of_logits_says_how_to_add_tokens(tmp_path: Path) -> None:
    extract(tiny_extract(tmp_path / "c", taps=("head/logits",)))
    cache = open_cache(tmp_path / "c")
    with pytest.raises(CacheMismatchError, match="no column of patch tokens") as caught:
        choose_columns(cache, None)
    assert caught.value.remedy is Remedy.ADD_PATCH_TAP
    assert caught.value.details == {"wanted": "patch tokens", "held": [column.label for column in cache.columns]}


def test_which_columns(tiny_cache: Cache) -> None:
    chosen, left_out = choose_columns(tiny_cache, ["blocks-1-patch-int8"])
    assert [column.name for column in chosen] == [f"{GROUP}/blocks-1-patch-int8"]
    assert f"{GROUP}/blocks-0-patch-fp32: not asked for" in left_out
