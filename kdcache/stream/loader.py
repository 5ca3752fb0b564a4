"""The stream of batches that a student trains on."""

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from kdcache.cache.cache import Cache
from kdcache.cache.manifest import ColumnFacts
from kdcache.images import Source
from kdcache.stream.batch import Batch, BatchBuffers
from kdcache.stream.images import ViewReplayer
from kdcache.stream.order import StreamOrder, Tail
from kdcache.stream.prefetch import prefetched
from kdcache.stream.reader import CheckPolicy, ShardReader
from kdcache.stream.state import StreamState

_MAX_DEFAULT_THREADS = 8


@dataclass(frozen=True, kw_only=True)
class StreamConfig:
    """How a cache is streamed.

    Args:
        batch_size: Views in a global batch, over all ranks together.
        seed: Of the order.
        shuffle: False reads in the order of the cache.
        window: Shards that are mixed with each other.
        views_per_sample: Views of a sample in one batch.
        tail: What happens to the samples that do not fill a batch: drop or pad.
        num_threads: Threads that read, decode and replay; None takes the cores this process may use, at most 8.
        num_buffers: Batches in memory, including the one in use.
        check: sha256 of every file at first use (``full``), or its size only (``size``).
        check_pixels: Share of views whose pixels are compared with the hash of what the teacher saw.
    """

    batch_size: int
    seed: int = 0
    shuffle: bool = True
    window: int = 16
    views_per_sample: int = 1
    tail: Tail = "drop"
    num_threads: int | None = None
    num_buffers: int = 3
    check: CheckPolicy = "full"
    check_pixels: float = 1 / 64

    def __post_init__(self) -> None:
        if self.num_threads is not None and self.num_threads < 1:
            raise ValueError(f"num_threads must be at least 1, got {self.num_threads}")
        if self.num_buffers < 2:
            raise ValueError(f"num_buffers must be at least 2, got {self.num_buffers}")


class CacheLoader:
    """Batches of one rank, epoch after epoch; iterate it once per epoch.

    Every pass of ``for batch in loader`` goes to the end of the current epoch and leaves the loader at the beginning of
    the next. The buffers of a batch are reused: see Batch.

    Args:
        cache: The cache.
        columns: Columns to deliver as targets; may be empty.
        config: How to stream.
        source: The images, for a cache that only refers to them.
        rank, world_size: This process among its siblings.
        pin_memory: Whether batches lie in page-locked memory.

    Raises: ValueError for a batch that does not divide among the ranks, SourceError, CorruptCacheError.

    Attributes:
        wait_s: Seconds the consumer has waited for batches so far.
    """

    def __init__(
        self,
        cache: Cache,
        columns: Sequence[ColumnFacts],
        config: StreamConfig,
        *,
        source: Source | None = None,
        rank: int = 0,
        world_size: int = 1,
        pin_memory: bool = False,
    ) -> None:
        self.cache = cache
        self.config = config
        self.order = StreamOrder(
            shard_sizes=tuple(shard.num_samples for shard in cache.manifest.shards),
            num_views=cache.manifest.fingerprint.views.num_views,
            batch_size=config.batch_size,
            seed=config.seed,
            shuffle=config.shuffle,
            window=config.window,
            views_per_sample=config.views_per_sample,
            tail=config.tail,
        )
        self._rank, self._world_size = rank, world_size
        self._columns = list(columns)
        self._reader = ShardReader(cache, columns, check=config.check)
        self._replayer = ViewReplayer(cache, self._reader, source, check_share=config.check_pixels)
        self._num_threads = config.num_threads or min(len(os.sched_getaffinity(0)), _MAX_DEFAULT_THREADS)
        rows = len(self.order.batch(np.zeros(1, np.int64), epoch=0, step=0, rank=rank, world_size=world_size))
        facts = cache.manifest.fingerprint.views
        self._buffers = [BatchBuffers(rows, columns, facts, pinned=pin_memory) for _ in range(config.num_buffers)]
        self._epoch, self._step = 0, 0
        self.wait_s = 0.0

    def __len__(self) -> int:
        """Batches in an epoch."""
        return self.order.steps_per_epoch

    def __iter__(self) -> Iterator[Batch]:
        epoch = self._epoch
        for step, batch in self._batches(epoch, range(self._step, len(self))):
            self._step = step + 1
            if self._step == len(self):
                self._epoch, self._step = epoch + 1, 0
            yield batch

    def every(self, count: int, first: int) -> Iterator[Batch]:
        """Copies of every count-th batch of the current epoch, beginning with number `first`; the state stays put."""
        for _, batch in self._batches(self._epoch, range(self._step + first, len(self), count)):
            yield batch.clone()

    def _batches(self, epoch: int, steps: range) -> Iterator[tuple[int, Batch]]:
        order = self.order.epoch(epoch)
        rows = (
            self.order.batch(order, epoch=epoch, step=step, rank=self._rank, world_size=self._world_size)
            for step in steps
        )
        filled = prefetched(rows, self._buffers, self._start, num_threads=self._num_threads)
        with contextlib.closing(filled):
            for step in steps:
                asked = time.perf_counter()
                buffers, _ = next(filled)
                self.wait_s += time.perf_counter() - asked
                yield step, buffers.batch

    def state_dict(self) -> dict[str, Any]:
        """Where the stream stands: before the batch that comes next."""
        position = self._step * self.order.samples_per_batch
        return StreamState(self.cache.digest, self.config.seed, self._epoch, position).as_dict()

    def load_state_dict(self, values: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken, on any number of ranks.

        Raises: CacheMismatchError when it was taken from another cache, seed or batch size.
        """
        state = StreamState.from_dict(values)
        samples = self.order.samples_per_batch
        self._step = state.step(cache=self.cache.digest, seed=self.config.seed, samples_per_batch=samples)
        self._epoch = state.epoch

    def _start(self, pool: ThreadPoolExecutor, buffers: BatchBuffers, rows: np.ndarray) -> list[Future[None]]:
        buffers.set_rows(rows)
        num_samples = len(rows) // self.order.views_per_sample
        pieces = np.array_split(np.arange(num_samples), min(num_samples, 2 * self._num_threads))
        return [pool.submit(self._fill, buffers, rows, piece) for piece in pieces]

    def _fill(self, buffers: BatchBuffers, rows: np.ndarray, samples: np.ndarray) -> None:
        """Fill the rows of some samples of a batch."""
        num_views = self.order.views_per_sample
        for first in samples * num_views:
            sample = int(rows[first, 0])
            views = [int(view) for view in rows[first : first + num_views, 1]]
            shard, row = self._reader.locate(sample)
            buffers.labels[first : first + num_views] = shard.index.labels[row]
            replayed = self._replayer.pixels(shard, row, sample, views)
            for at, (view, pixels) in enumerate(zip(views, replayed, strict=True), start=first):
                buffers.pixels[at] = pixels
                for column in self._columns:
                    into = [field[at].data for field in buffers.fields[column.name]]
                    self._reader.read_record(shard, row, view, column, into)


def pin_for(device: torch.device) -> bool:
    """Whether batches for this device should lie in page-locked memory."""
    return device.type == "cuda"
