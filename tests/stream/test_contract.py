"""Every stream keeps every promise."""

import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdcache.cache import Cache
from kdcache.stream.cached import CacheLoader
from kdcache.stream.foreign import ForeignLoader
from kdcache.stream.loader import Loader, StreamConfig
from kdcache.stream.tars import open_tars
from tests.stream.contract import assert_stream_contract, epochs
from tests.stream.ways import WAYS, needs_extension, needs_kernel_copy

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


def cache_loader(cache: Cache, rank: int = 0, world_size: int = 1, **changes: Any) -> Loader:
    settings = {"batch_size": 4, "num_threads": 2, "window": 2, "check_pixels": 1.0, **changes}
    columns = cache.columns
    return CacheLoader(cache, columns, StreamConfig(**settings), rank=rank, world_size=world_size)


@pytest.mark.parametrize("kind", [*WAYS, *KINDS])
def test_caches(tiny_cache: Cache, kind: str) -> None:
    changes = KINDS.get(kind, {"access": kind})
    assert_stream_contract(lambda **ranks: cache_loader(tiny_cache, **ranks, **changes))


@needs_extension
@needs_kernel_copy
def test_all_ways_of_reading_give_the_same_bytes(tiny_cache: Cache) -> None:
    mapped, copied, read = (epochs(cache_loader(tiny_cache, access=access), 2) for access in ("map", "kernel", "read"))
    assert mapped == copied == read


def write_foreign(folder: Path, sizes: tuple[int, ...] = (7, 1, 0, 12)) -> str:
    """Tars as another program would write them: PAX headers, other members between, uneven sizes."""
    number = 0
    for shard, size in enumerate(sizes):
        with tarfile.open(folder / f"foreign-{shard}.tar", "w", format=tarfile.PAX_FORMAT) as tar:
            for _ in range(size):
                features = io.BytesIO()
                np.save(features, np.full((5, 3), number, np.float16))
                long_name = "ä" * (80 if number % 3 else 5)
                for extension, data in (
                    ("txt", b"x" * (number * 97 % 700)),
                    ("feat.npy", features.getvalue()),
                    ("cls", b"%d\n" % (number % 4)),
                ):
                    info = tarfile.TarInfo(f"{long_name}/{number:04d}.{extension}")
                    info.size, info.mtime = len(data), 1.5  # type: ignore[assignment]
                    tar.addfile(info, io.BytesIO(data))
                number += 1
    return str(folder / f"foreign-{{0..{len(sizes) - 1}}}.tar")


@pytest.mark.parametrize("access", WAYS)
def test_foreign_tars(tmp_path: Path, access: str) -> None:
    tars = open_tars(write_foreign(tmp_path), ["feat.npy"])
    config = StreamConfig(batch_size=4, images="none", window=2, access=access)  # type: ignore[arg-type]
    assert_stream_contract(lambda **ranks: ForeignLoader(tars, config, **ranks))
    for batch in ForeignLoader(tars, config):
        features = batch.targets["feat.npy"].decode()
        assert features.shape == (4, 5, 3)
        assert (features[:, 0, 0] == batch.samples).all()
        assert (batch.labels == batch.samples % 4).all()
