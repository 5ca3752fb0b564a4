import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from kdcache.cache import Cache, open_cache
from kdcache.errors import SourceError, UsageError
from kdcache.stream.config import StreamConfig
from kdcache.stream.dataset import CacheDataset, CacheIterable
from kdcache.stream.loader import CacheLoader
from kdcache.stream.pixels import PixelOrigin
from kdcache.teacher.extract import extract
from tests.conftest import tiny_extract

CONFIG = StreamConfig(batch_size=4, num_threads=1, check_pixels=1.0)


def test_items_are_records_by_number(tiny_cache: Cache) -> None:
    dataset = CacheDataset(tiny_cache, check_pixels=1.0)
    assert len(dataset) == 40
    index = tiny_cache.index(tiny_cache.manifest.shards[0])
    item = dataset[5]
    assert (item["key"], item["view"], item["label"]) == (index.key(2), 1, int(index.labels[2]))
    assert item["pixels"].shape == (16, 16, 3)
    column = tiny_cache.find_column(kind="patch", codec="int8")
    decoded = column.make_codec().decode(
        tiny_cache.strided(column, tiny_cache.manifest.shards[0]).fields(), tuple(column.shape)
    )
    np.testing.assert_array_equal(item[column.name].numpy(), decoded[5])
    assert dataset[-1]["key"] == dataset[39]["key"]
    with pytest.raises(IndexError):
        dataset[40]


@pytest.mark.parametrize("root", ["groups_root", "jpeg_root"])
@pytest.mark.parametrize("pixels", ["auto", "stored", "replay"])
def test_items_are_the_rows_of_the_loader(request: pytest.FixtureRequest, root: str, pixels: PixelOrigin) -> None:
    cache = open_cache(request.getfixturevalue(root))
    dataset = CacheDataset(cache, pixels=pixels, check_pixels=1.0)
    config = StreamConfig(batch_size=4, num_threads=1, pixels=pixels, check_pixels=1.0)
    for batch in CacheLoader(cache, cache.columns, config):
        assert batch.pixels is not None
        decoded = {name: targets.decode() for name, targets in batch.targets.items()}
        for row, (sample, view) in enumerate(zip(batch.samples.tolist(), batch.views.tolist(), strict=True)):
            item = dataset[sample * cache.num_views + view]
            assert (item["label"], item["view"]) == (int(batch.labels[row]), view)
            assert torch.equal(item["pixels"], batch.pixels[row])
            for name, values in decoded.items():
                assert torch.equal(item[name], values[row])


@pytest.mark.parametrize("form", ["raw", "jpeg:80"])
def test_stored_pixels_need_no_images(photos: Path, tmp_path: Path, form: str) -> None:
    config = tiny_extract(tmp_path / "c", data=str(photos), images="reference", pixels=form, taps=("head/logits",))
    extract(config)
    shutil.rmtree(photos)
    cache = open_cache(tmp_path / "c")
    for pixels in ("auto", "stored"):
        assert len([item["pixels"] for item in DataLoader(CacheDataset(cache, pixels=pixels), batch_size=4)]) == 3
    with pytest.raises(SourceError, match="refers to its images"):
        CacheDataset(cache, pixels="replay")[0]


def test_the_origin_of_pixels_is_checked_at_once(tiny_cache: Cache) -> None:
    with pytest.raises(UsageError, match="no stored pixels"):
        CacheDataset(tiny_cache, pixels="stored")
    with pytest.raises(ValueError, match="pixels must be auto, stored or replay"):
        CacheDataset(tiny_cache, pixels="raw")


@pytest.mark.parametrize("workers", [0, 2])
def test_the_map_dataset_inside_a_dataloader(tiny_cache: Cache, workers: int) -> None:
    columns = [tiny_cache.find_column(kind="patch", codec="fp16")]
    loader = DataLoader(CacheDataset(tiny_cache, columns), batch_size=8, num_workers=workers)
    batches = list(loader)
    assert len(batches) == 5
    assert batches[0][columns[0].name].shape == (8, 16, 24)
    assert batches[0]["pixels"].dtype == torch.uint8


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_the_iterable_dataset_gives_the_loaders_batches_for_any_workers(tiny_cache: Cache, workers: int) -> None:
    columns = tiny_cache.columns
    expected = [batch.clone() for batch in CacheLoader(tiny_cache, columns, CONFIG)]
    dataset = CacheIterable(tiny_cache, columns, CONFIG)
    found = list(DataLoader(dataset, batch_size=None, num_workers=workers))
    assert len(dataset) == len(expected) == 5
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours.samples, theirs.samples)
        assert torch.equal(ours.pixels, theirs.pixels)
        for name, targets in ours.targets.items():
            assert torch.equal(targets.decode(), theirs.targets[name].decode())


@pytest.mark.parametrize("workers", [0, 2])
def test_epochs_with_workers(tiny_cache: Cache, workers: int) -> None:
    dataset = CacheIterable(tiny_cache, [], CONFIG)
    loader = DataLoader(dataset, batch_size=None, num_workers=workers)
    orders = []
    for epoch in (0, 1, 0):
        dataset.set_epoch(epoch)
        orders.append(torch.cat([batch.samples for batch in loader]).tolist())
    assert orders[0] == orders[2] != orders[1]


def test_state_without_workers(tiny_cache: Cache) -> None:
    dataset = CacheIterable(tiny_cache, [], CONFIG)
    stream = iter(dataset)
    next(stream)
    state = dataset.state_dict()
    rest = [batch.samples.tolist() for batch in stream]
    again = CacheIterable(tiny_cache, [], CONFIG)
    again.load_state_dict(state)
    assert [batch.samples.tolist() for batch in again] == rest


def test_workers_have_no_state(tiny_cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdcache.stream.dataset.get_worker_info", lambda: object())
    with pytest.raises(UsageError, match="num_workers=0"):
        CacheIterable(tiny_cache, [], CONFIG).state_dict()


def test_a_dataset_cannot_check_beside_itself(tiny_cache: Cache) -> None:
    with pytest.raises(ValueError, match="must be full, records or size"):
        CacheDataset(tiny_cache, check="background")


def test_workers_that_live_on_see_the_epoch_change(tiny_cache: Cache) -> None:
    config = StreamConfig(batch_size=4, num_threads=1, images="none")
    columns = tiny_cache.columns[:1]
    dataset = CacheIterable(tiny_cache, columns, config)
    loader = DataLoader(dataset, batch_size=None, num_workers=2, persistent_workers=True)
    plain = CacheLoader(tiny_cache, columns, config)
    for epoch in range(3):
        dataset.set_epoch(epoch)
        assert [batch.samples.tolist() for batch in loader] == [batch.samples.tolist() for batch in plain]
    del loader


def test_setting_the_present_epoch_keeps_the_position(tiny_cache: Cache) -> None:
    config = StreamConfig(batch_size=4, num_threads=1, images="none")
    dataset = CacheIterable(tiny_cache, [], config)
    next(iter(dataset))
    state = dataset.state_dict()
    dataset.set_epoch(0)
    assert dataset.state_dict() == state
    dataset.set_epoch(1)
    assert dataset.state_dict()["position"] == 0
