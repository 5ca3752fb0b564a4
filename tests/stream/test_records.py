import gc
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kdcache.cache import Cache, open_cache
from kdcache.errors import CacheMismatchError, CorruptCacheError, UsageError
from kdcache.images import open_source
from kdcache.per_class import few_shot
from kdcache.stream.batch import Batch
from kdcache.stream.config import StreamConfig
from kdcache.stream.loader import CacheLoader
from tests.conftest import flip_bit


def make(cache: Cache, *, rank: int = 0, world_size: int = 1, **changes: Any) -> CacheLoader:
    settings: dict[str, Any] = {"batch_size": 4, "num_threads": 2, "check_pixels": 1.0, "window": 2}
    columns = cache.columns
    return CacheLoader(cache, columns, StreamConfig(**{**settings, **changes}), rank=rank, world_size=world_size)


def rows(batches: list[Batch]) -> list[tuple[int, int]]:
    return [row for batch in batches for row in zip(batch.samples.tolist(), batch.views.tolist(), strict=True)]


def test_pixels_labels_and_targets_belong_together(tiny_cache: Cache) -> None:
    """Every row of every batch against the same record read through the strided view."""
    columns = tiny_cache.columns
    decoded = {
        column.name: np.concatenate(
            [
                column.make_codec().decode(tiny_cache.strided(column, shard).fields(), tuple(column.shape))
                for shard in tiny_cache.manifest.shards
            ]
        )
        for column in columns
    }
    labels = np.concatenate([tiny_cache.index(shard).labels for shard in tiny_cache.manifest.shards])
    count = 0
    for batch in make(tiny_cache):
        for at, (sample, view) in enumerate(rows([batch])):
            assert int(batch.labels[at]) == labels[sample]
            for column in columns:
                np.testing.assert_array_equal(
                    batch.targets[column.name].decode()[at].numpy(), decoded[column.name][sample * 2 + view]
                )
            count += 1
    assert count == 20


def test_the_same_epoch_twice_and_another_epoch(tiny_cache: Cache) -> None:
    loader = make(tiny_cache)
    first, second = (rows([batch.clone() for batch in loader]) for _ in range(2))
    assert first == rows([batch.clone() for batch in make(tiny_cache)])
    assert first != second
    assert sorted({sample for sample, _ in second}) == list(range(20))


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("buffers", [2, 4])
def test_threads_and_buffers_do_not_change_the_batches(tiny_cache: Cache, threads: int, buffers: int) -> None:
    plain = [batch.clone() for batch in make(tiny_cache)]
    other = [batch.clone() for batch in make(tiny_cache, num_threads=threads, num_buffers=buffers)]
    assert rows(plain) == rows(other)
    for one, two in zip(plain, other, strict=True):
        assert torch.equal(one.pixels, two.pixels)


def test_ranks_share_each_global_batch(tiny_cache: Cache) -> None:
    whole = [batch.clone() for batch in make(tiny_cache)]
    parts = [[batch.clone() for batch in make(tiny_cache, rank=rank, world_size=2)] for rank in range(2)]
    for batch, first, second in zip(whole, *parts, strict=True):
        assert rows([batch]) == rows([first]) + rows([second])


def test_resuming_at_every_step_gives_the_remaining_batches(tiny_cache: Cache) -> None:
    loader = make(tiny_cache, tail="pad", batch_size=6)
    states, batches = [loader.state_dict()], []
    for _ in range(2):
        for batch in loader:
            batches.append(batch.clone())
            states.append(loader.state_dict())
    assert len(batches) == 8
    for taken, state in enumerate(states):
        expected = rows(batches[taken:])
        assert remaining(tiny_cache, state, rank=0, world_size=1) == expected
        both = [row for rank in range(2) for row in remaining(tiny_cache, state, rank=rank, world_size=2)]
        assert sorted(both) == sorted(expected)


def remaining(cache: Cache, state: dict[str, Any], **rank: int) -> list[tuple[int, int]]:
    """What a fresh loader gives from a saved state to the end of the second epoch."""
    loader = make(cache, tail="pad", batch_size=6, **rank)
    loader.load_state_dict(state)
    return [row for _ in range(2 - state["epoch"]) for row in rows([batch.clone() for batch in loader])]


def test_breaking_off_and_going_on(tiny_cache: Cache) -> None:
    loader = make(tiny_cache)
    whole = rows([batch.clone() for batch in make(tiny_cache)])
    before = threading.active_count()
    stream = iter(loader)
    found = rows([next(stream).clone(), next(stream).clone()])
    stream.close()
    assert threading.active_count() == before
    assert found + rows([batch.clone() for batch in loader]) == whole


def test_state_of_another_cache_is_refused(tiny_cache: Cache) -> None:
    loader = make(tiny_cache)
    with pytest.raises(CacheMismatchError, match="saved with cache"):
        loader.load_state_dict({**loader.state_dict(), "cache": "0" * 64})


def test_damage_stops_the_stream_with_the_shards_name(cache_copy: Path) -> None:
    cache = open_cache(cache_copy)
    strided = cache.strided(cache.find_column(kind="patch", codec="fp16"), cache.manifest.shards[1])
    flip_bit(strided.path, strided.payload_offset(3))
    with pytest.raises(CorruptCacheError, match="train-000001"):
        for _ in make(cache):
            pass


def test_buffers_are_reused_and_not_reallocated(tiny_cache: Cache) -> None:
    loader = make(tiny_cache, num_buffers=3)
    places = {batch.pixels.data_ptr() for _ in range(3) for batch in loader}
    assert len(places) <= 3


def test_several_views_share_a_batch(tiny_cache: Cache) -> None:
    for batch in make(tiny_cache, views_per_sample=2):
        samples, views = batch.samples.tolist(), batch.views.tolist()
        assert samples[0::2] == samples[1::2]
        assert {tuple(sorted(pair)) for pair in zip(views[0::2], views[1::2], strict=True)} == {(0, 1)}


def test_no_columns_at_all(tiny_cache: Cache) -> None:
    loader = CacheLoader(tiny_cache, [], StreamConfig(batch_size=10))
    assert [len(batch.pixels) for batch in loader] == [10, 10]
    assert loader.wait_s > 0
    assert len(loader) == 2


def test_a_hundred_epochs_leave_no_threads_and_no_files(tiny_cache: Cache) -> None:
    gc.collect()  # errors of other tests hold their readers in cycles
    loader = make(tiny_cache, check_pixels=0.0)
    for _ in loader:
        pass
    threads, files = threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(100):
        for _ in loader:
            pass
    assert threading.active_count() == threads
    assert len(list(Path("/proc/self/fd").iterdir())) == files


def shown(cache: Cache, **changes: Any) -> set[int]:
    return {sample for batch in make(cache, **changes) for sample in batch.samples.tolist()}


def test_a_stream_of_a_few_images_of_each_class(tiny_cache: Cache) -> None:
    """Those that the same seed draws from the source, as often as there are classes; no other is delivered."""
    source = open_source("digits:train").images
    held = {}
    for shard in tiny_cache.manifest.shards:
        index = tiny_cache.index(shard)
        held |= {index.source_key(row): len(held) + row for row in range(len(index))}
    images = [image for image in source if image.key in held]
    labels, keys = [image.label for image in images], [image.key for image in images]
    kept = few_shot(labels, keys, per_class="1", seed=12)
    expected = {held[keys[position]] for position in kept}
    settings: dict[str, Any] = {"per_class": "1", "per_class_seed": 12, "batch_size": 1}
    assert shown(tiny_cache, **settings) == expected
    assert len(expected) == len(set(labels)) < 20
    assert shown(tiny_cache, per_class="1", seed=12, batch_size=1) == expected, "the stream's own seed"
    assert shown(tiny_cache, **{**settings, "per_class_seed": 13}) != expected
    assert shown(tiny_cache, per_class="100%", batch_size=1) == set(range(20))


def test_a_state_of_another_subset_is_refused(tiny_cache: Cache) -> None:
    state = make(tiny_cache, per_class="1").state_dict()
    assert state["order"].endswith("drop the tail, 1 of each class with seed 0")
    for changes in ({}, {"per_class": "100%"}, {"per_class": "1", "per_class_seed": 1}):
        with pytest.raises(CacheMismatchError, match="saved in another order"):
            make(tiny_cache, **changes).load_state_dict(state)


def test_classes_that_are_too_small_are_refused(tiny_cache: Cache) -> None:
    with pytest.raises(UsageError, match=r"class \d \(\d\) has \d images?, fewer than 9"):
        make(tiny_cache, per_class="9")
    with pytest.raises(ValueError, match="does not fill one batch of 16"):
        make(tiny_cache, per_class="1", batch_size=16)
