from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from kdcache.cache import open_cache
from kdcache.errors import CacheMismatchError, Remedy
from kdcache.teacher.extract import extract
from kdcache.teacher.out_folder import refuse_another_base
from tests.conftest import GROUP, tiny_extract


def test_the_folder_of_a_run_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CacheMismatchError, match="holds a run or a model, not a cache"):
        extract(tiny_extract(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_other_views_are_to_be_added_to_a_finished_cache(tiny_root: Path) -> None:
    held = open_cache(tiny_root).manifest.fingerprint
    other = tiny_extract(tiny_root, group="second")
    with pytest.raises(CacheMismatchError, match=r"has no group 'second' \(it holds") as refused:
        refuse_another_base(other, msgspec.structs.replace(held, shard_samples=99))
    assert refused.value.remedy is Remedy.ADD_GROUP
    assert "shard_samples" in str(refused.value)
    refuse_another_base(other, held)
    refuse_another_base(tiny_extract(tiny_root, group=GROUP), msgspec.structs.replace(held, shard_samples=99))


def test_images_that_are_new_or_gone_are_named(photos: Path, tmp_path: Path) -> None:
    """Their hash tells nobody which file was added overnight."""
    config = tiny_extract(tmp_path / "c", data=str(photos), limit=6, views=1, taps=("head/logits",))
    extract(config)
    with pytest.raises(CacheMismatchError, match="these images in another order, or more of them"):
        extract(replace(config, limit=5))
    (photos / "cat" / "1.JPEG").rename(photos / "cat" / "new.jpg")
    with pytest.raises(CacheMismatchError) as refused:
        extract(config)
    text = str(refused.value)
    assert "source: the cache has other images than this run: 1 (cat/new.jpg) new, 1 (cat/1.JPEG) gone" in text
    assert "keys_sha256" not in text
    (tmp_path / "c" / "manifest.json").unlink()
    with pytest.raises(CacheMismatchError, match=r"1 \(cat/1.JPEG\) gone of 6 that are done"):
        extract(config)
