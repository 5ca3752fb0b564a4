"""Every stream keeps every promise."""

from pathlib import Path
from typing import Any

import pytest

from kdcache.cache import Cache, open_cache
from kdcache.stream.config import StreamConfig
from kdcache.stream.loader import CacheLoader
from kdcache.teacher.extract import extract
from tests.conftest import tiny_extract
from tests.stream.contract import assert_stream_contract, epochs
from tests.stream.modes import MODES, needs_extension

KINDS: dict[str, dict[str, Any]] = {
    "auto": {},
    "pad": {"tail": "pad", "batch_size": 8},
    "in order": {"shuffle": False},
    "two views": {"views_per_sample": 2, "batch_size": 8},
    # A rank of four has one view of the two, so that samples are divided.
    "repeated augmentation": {"views_per_sample": 2, "epoch_of": "views"},
    "repeated augmentation, padded": {"views_per_sample": 2, "epoch_of": "views", "tail": "pad", "batch_size": 8},
    "repeated augmentation, in order": {"views_per_sample": 2, "epoch_of": "views", "shuffle": False},
    "repeated augmentation, as files": {"views_per_sample": 2, "epoch_of": "views", "images": "encoded"},
    "few shot": {"per_class": "1", "per_class_seed": 12},
    "few shot, repeated": {"per_class": "1", "views_per_sample": 2, "epoch_of": "views"},
    "encoded": {"images": "encoded"},
    "no images": {"images": "none"},
    "checked later": {"check": "background"},
    "wide window": {"window": 50},
    "one thread, two buffers": {"num_threads": 1, "num_buffers": 2},
}


def cache_loader(cache: Cache, rank: int = 0, world_size: int = 1, **changes: Any) -> CacheLoader:
    settings = {"batch_size": 4, "num_threads": 2, "window": 2, "check_pixels": 1.0, **changes}
    columns = cache.columns
    return CacheLoader(cache, columns, StreamConfig(**settings), rank=rank, world_size=world_size)


@pytest.mark.parametrize("kind", [*MODES, *KINDS])
def test_caches(tiny_cache: Cache, kind: str) -> None:
    changes = KINDS.get(kind, {"access": kind})
    assert_stream_contract(lambda **ranks: cache_loader(tiny_cache, **ranks, **changes))


@pytest.mark.slow
def test_three_views_that_do_not_divide_the_batch(tmp_path: Path) -> None:
    """DeiT's three repeats in batches of four: samples are divided between batches, and between ranks."""
    extract(tiny_extract(tmp_path / "c", views=3, limit=10, taps=("head/logits",)))
    cache = open_cache(tmp_path / "c")
    for epoch_of in ("samples", "views"):
        assert_stream_contract(
            lambda of=epoch_of, **ranks: cache_loader(cache, **ranks, views_per_sample=3, epoch_of=of)
        )
    # 10 samples: two batches of four views, of 3 samples.
    [first, second] = (
        {row[0] for batch in epochs(loader, 1) for row in batch}
        for loader in [cache_loader(cache, views_per_sample=3, epoch_of="views")] * 2
    )
    assert len(first) == len(second) == 3
    assert first != second


def test_an_epoch_of_views_opens_a_part_of_the_shards(tiny_cache: Cache) -> None:
    """Three shards in windows of one, half of the samples: the last shard of the epoch stays closed."""
    loader = cache_loader(tiny_cache, views_per_sample=2, epoch_of="views", window=1, batch_size=10)
    opened: list[int] = []
    reader = loader.records.reader
    shard = reader.shard
    reader.shard = lambda number, cancel=None: (opened.append(number), shard(number, cancel))[1]
    assert len(epochs(loader, 1)) == 2
    wanted = [*loader.order.shards(0)[:2].tolist(), *loader.order.shards(1)[:1].tolist()]
    assert set(opened) <= set(wanted)


@needs_extension
def test_both_read_modes_give_the_same_bytes(tiny_cache: Cache) -> None:
    mapped, read = (epochs(cache_loader(tiny_cache, access=access), 2) for access in ("map", "read"))
    assert mapped == read
