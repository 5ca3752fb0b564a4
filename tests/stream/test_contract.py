"""Every stream keeps every promise."""

from typing import Any

import pytest

from kdcache.cache import Cache
from kdcache.stream.config import StreamConfig
from kdcache.stream.loader import CacheLoader
from tests.stream.contract import assert_stream_contract, epochs
from tests.stream.modes import MODES, needs_extension

KINDS: dict[str, dict[str, Any]] = {
    "auto": {},
    "pad": {"tail": "pad", "batch_size": 8},
    "in order": {"shuffle": False},
    "two views": {"views_per_sample": 2, "batch_size": 8},
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


@needs_extension
def test_both_read_modes_give_the_same_bytes(tiny_cache: Cache) -> None:
    mapped, read = (epochs(cache_loader(tiny_cache, access=access), 2) for access in ("map", "read"))
    assert mapped == read
