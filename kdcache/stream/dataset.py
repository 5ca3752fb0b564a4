"""The cache as torch datasets, for trainers that bring their own DataLoader."""

from collections.abc import Iterator, Sequence
from typing import Any, final

import numpy as np
import torch
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from kdcache.cache.cache import Cache
from kdcache.cache.column import Column
from kdcache.errors import UsageError
from kdcache.images import Source
from kdcache.reading.checks import CheckPolicy
from kdcache.stream.batch import Batch
from kdcache.stream.config import StreamConfig
from kdcache.stream.loader import CacheLoader
from kdcache.stream.pixels import PixelOrigin, stored_pixels
from kdcache.stream.records import CacheRecords


@final
class CacheDataset(Dataset[dict[str, Any]]):
    """One record at a time, by number: record r is view ``r % K`` of sample ``r // K``.

    Items are dictionaries of ``pixels`` (S, S, 3) uint8, ``label``, ``key``, ``view``, and each column by name: its
    decoded values as float32. They can be collated by torch's default.

    Args:
        cache: The cache.
        columns: Columns to deliver; None for all.
        source: The images, for a cache that only refers to them.
        pixels, check, check_pixels: As in StreamConfig.

    Raises: ValueError for unknown words, UsageError where stored pixels are wanted and there are none; SourceError when
        the first item is read without the images that it needs.
    """

    def __init__(
        self,
        cache: Cache,
        columns: Sequence[Column] | None = None,
        *,
        source: Source | None = None,
        pixels: PixelOrigin = "auto",
        check: CheckPolicy = "full",
        check_pixels: float = 1 / 64,
    ) -> None:
        if check == "background":
            raise ValueError(
                "check='background' needs a loader that reads ahead; for a dataset check must be full, records or size"
            )
        self.cache = cache
        self.columns = list(cache.columns if columns is None else columns)
        # One record at a time and in any order: a window of mapped shards would gain nothing.
        self._config = StreamConfig(batch_size=1, pixels=pixels, access="read", check=check, check_pixels=check_pixels)
        stored_pixels(cache, pixels)
        self._source = source
        self._records: CacheRecords | None = None

    def __len__(self) -> int:
        return self.cache.manifest.num_records

    def __getitem__(self, record: int) -> dict[str, Any]:
        if not -len(self) <= record < len(self):
            raise IndexError(f"record {record} of {len(self)}")
        sample, view = divmod(record % len(self), self.cache.num_views)
        records = self._open()
        buffers = records.new_buffers(1, pinned=False)
        records.fill(buffers, np.array([[sample, view]]), slice(0, 1))
        shard, row = records.reader.locate(sample)
        batch = buffers.batch
        assert batch.pixels is not None, "the config asks for pixels"
        return {
            "pixels": batch.pixels[0],
            "label": int(batch.labels[0]),
            "key": shard.index.key(row),
            "view": view,
            **{name: targets.decode()[0] for name, targets in batch.targets.items()},
        }

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_records": None}

    def _open(self) -> CacheRecords:
        # Opened in the process that reads: files and locks cannot be sent to DataLoader workers.
        if self._records is None:
            self._records = CacheRecords(self.cache, self.columns, self._config, self._source, 1)
        return self._records


@final
class CacheIterable(IterableDataset[Batch]):
    """Whole batches in the cache's own order, for ``DataLoader(dataset, batch_size=None)``.

    With workers, each makes every n-th batch and DataLoader puts them back in order: the batches are the same for any
    number of workers. Batches own their memory here. Without workers the state can be saved and loaded as in
    CacheLoader.

    Args:
        cache, columns, config, source, rank, world_size: As in CacheLoader.
    """

    def __init__(
        self,
        cache: Cache,
        columns: Sequence[Column],
        config: StreamConfig,
        *,
        source: Source | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self._arguments = (cache, list(columns), config)
        self._keywords: dict[str, Any] = {"source": source, "rank": rank, "world_size": world_size}
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # workers that live on see it change
        self._loader: CacheLoader | None = None

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next pass, from 0; needed with DataLoader workers, which start again every epoch.

        A position within this epoch, loaded from a state, stays.
        """
        self._epoch.fill_(epoch)
        if self._loader is not None:
            self._move(self._loader)

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        if worker is None:
            for batch in self._own_loader():
                yield batch.clone()
            return
        loader = self._own_loader()
        self._move(loader)
        yield from loader.every(worker.num_workers, worker.id)

    def __len__(self) -> int:
        return len(self._own_loader())

    def state_dict(self) -> dict[str, Any]:
        """Where the stream stands. Raises: UsageError inside a DataLoader worker."""
        self._refuse_workers()
        return self._own_loader().state_dict()

    def load_state_dict(self, values: dict[str, Any]) -> None:
        """Resume where `state_dict` was taken. Raises: UsageError inside a DataLoader worker, CacheMismatchError."""
        self._refuse_workers()
        self._own_loader().load_state_dict(values)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_loader": None}

    def _own_loader(self) -> CacheLoader:
        if self._loader is None:
            self._loader = CacheLoader(*self._arguments, **self._keywords)
            self._move(self._loader)
        return self._loader

    def _move(self, loader: CacheLoader) -> None:
        state, epoch = loader.state_dict(), int(self._epoch)
        if state["epoch"] != epoch:
            loader.load_state_dict({**state, "epoch": epoch, "position": 0})

    def _refuse_workers(self) -> None:
        if get_worker_info() is not None:
            raise UsageError(
                "a DataLoader worker reads a part of the stream only; use num_workers=0 to save and resume"
            )
