import gc
import json
from pathlib import Path

import pytest
import timm.data

from kdcache.cache import Cache
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


def test_wids_lists_every_part(tiny_root: Path, tiny_cache: Cache) -> None:
    for part in ("samples", *(column.name for column in tiny_cache.columns)):
        index = json.loads((tiny_root / f"wids-{part}.json").read_bytes())
        assert index["__kind__"] == "wids-shard-index-v1"
        assert sum(shard["nsamples"] for shard in index["shardlist"]) == 20
        for shard in index["shardlist"]:
            assert (tiny_root / shard["url"]).stat().st_size == shard["filesize"]
