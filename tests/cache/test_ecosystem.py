import gc
import json
from pathlib import Path

import pytest
import timm.data

from kdcache.cache import open_cache
from kdcache.cache.ecosystem import write_dali_indexes
from kdcache.errors import UsageError
from kdcache.teacher.extract import extract
from tests.conftest import tiny_extract


# webdataset leaves its files to the garbage collector.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_timm_reads_the_images_through_its_own_reader(photos: Path, tmp_path: Path) -> None:
    root = tmp_path / "cache"
    extract(tiny_extract(root, data=str(photos), taps=("head/logits",)))
    dataset = timm.data.create_dataset("wds/", root=str(root), split="train", is_training=False, batch_size=2)
    items = list(dataset)
    assert len(items) == 6
    assert sorted(label for _, label in items) == [0, 0, 0, 1, 1, 1]
    assert {image.size for image, _ in items} == {(30 - 2 * number, 20 + 3 * number) for number in range(6)}
    del dataset, items
    gc.collect()


def test_wids_lists_every_part(groups_root: Path) -> None:
    cache = open_cache(groups_root)
    columns = [column for group in cache.groups.values() for column in group.columns]
    files = [(groups_root, "samples"), *((groups_root / column.group, column.facts.name) for column in columns)]
    assert len(files) == 1 + 7 + 2 + 1
    for folder, part in files:
        index = json.loads((folder / f"wids-{part}.json").read_bytes())
        assert index["__kind__"] == "wids-shard-index-v1"
        assert sum(shard["nsamples"] for shard in index["shardlist"]) == 20
        for shard in index["shardlist"]:
            assert (folder / shard["url"]).stat().st_size == shard["filesize"]


def test_dali_needs_records_of_one_size(jpeg_root: Path, tmp_path: Path) -> None:
    cache = open_cache(jpeg_root)
    assert cache.pixel_column is not None
    with pytest.raises(UsageError, match="JPEG records differ in size"):
        write_dali_indexes(cache, cache.pixel_column, tmp_path)
