"""The stream of batches that a student trains on."""

import contextlib
import time
import weakref
from collections.abc import Callable, Generator, Iterator, Sequence
from functools import partial
from typing import Any, final

import numpy as np
import torch

from kdcache.cache.cache import Cache
from kdcache.cache.column import Column
from kdcache.forks import renew_after_fork
from kdcache.images import Source
from kdcache.stream.batch import Batch, BatchBuffers
from kdcache.stream.config import StreamConfig
from kdcache.stream.device import DeviceCopies, resolved
from kdcache.stream.epoch_order import EpochOrder
from kdcache.stream.order import StreamState
from kdcache.stream.prefetch import prefetched
from kdcache.stream.readahead import ReadAhead
from kdcache.stream.records import CacheRecords

# Views whose order is made at once: more than a small batch has, and few enough that the first batch need not wait.
_PLANNED_AT_ONCE = 4096


@final
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
        device: Where batches are delivered. For an accelerator, host buffers are page-locked and the copy of the next
            batch overlaps the step on the present one; targets stay packed.

    Raises: ValueError for a batch that does not divide among the ranks, SourceError, CorruptCacheError, UsageError.

    Attributes:
        records: What is streamed.
        order: In which order.
        wait_s: Seconds the consumer has waited for batches so far.
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
        device: torch.device | str = "cpu",
    ) -> None:
        self.records = CacheRecords(cache, columns, config, source, world_size)
        self.config = config
        self.order = self.records.order
        self.device = resolved(torch.device(device))
        self._rank, self._world_size = rank, world_size
        rows = self.order.rows_of_rank(world_size)
        pinned = self.device.type == "cuda"
        self._buffers = [self.records.new_buffers(rows, pinned=pinned) for _ in range(config.num_buffers)]
        self._next_order: tuple[int, EpochOrder] | None = None
        self._copies = None if self.device.type == "cpu" else DeviceCopies(self.device)
        self._present: weakref.ref[Generator[tuple[int, Batch]]] | None = None
        self._epoch, self._step = 0, 0
        self.wait_s = 0.0
        renew_after_fork(self)

    def renew(self) -> None:
        """See Renewable: a pass that began in another process cannot be ended here, its threads are there."""
        self._present = None

    def __len__(self) -> int:
        """Batches in an epoch."""
        return self.order.steps_per_epoch

    def __iter__(self) -> Iterator[Batch]:
        epoch = self._epoch
        for step, batch in self._only(self._batches(epoch, range(self._step, len(self)))):
            self._step = step + 1
            if self._step == len(self):
                self._epoch, self._step = epoch + 1, 0
            yield batch

    def every(self, count: int, first: int) -> Iterator[Batch]:
        """Copies of every count-th batch of the current epoch, beginning with number `first`; the state stays put."""
        for _, batch in self._only(self._batches(self._epoch, range(self._step + first, len(self), count))):
            yield batch.clone()

    def _only(self, batches: Generator[tuple[int, Batch]]) -> Iterator[tuple[int, Batch]]:
        """A new pass ends an older one that is still held: there is one set of buffers."""
        older = self._present() if self._present is not None else None
        if older is not None:
            older.close()
        self._present = weakref.ref(batches)
        with contextlib.closing(batches):
            yield from batches

    def _batches(self, epoch: int, steps: range) -> Generator[tuple[int, Batch]]:
        order = self._epoch_order(epoch)
        with self._read_ahead(epoch) as ahead:
            filled = prefetched(
                self._rows(order, epoch, steps, ahead),
                self._buffers,
                self._prepare,
                num_threads=self.config.threads,
                on_break=ahead.cancel,  # before the threads are waited for: one may be hashing a shard
            )
            waited = self._waited(filled)
            delivered = _in_place(waited) if self._copies is None else self._copies.deliver(waited)
            with contextlib.closing(filled), contextlib.closing(delivered):
                for step in steps:
                    yield step, next(delivered)
                    if step == steps[0]:
                        ahead.run(partial(self._remember_order, epoch + 1))

    def _waited(self, filled: Generator[tuple[BatchBuffers, np.ndarray]]) -> Generator[BatchBuffers]:
        """Pass on, and count the time until the host has each batch; what a device takes to copy it overlaps steps."""
        while True:
            asked = time.perf_counter()
            one = next(filled, None)
            self.wait_s += time.perf_counter() - asked
            if one is None:
                return
            yield one[0]

    def _rows(self, order: EpochOrder, epoch: int, steps: range, ahead: ReadAhead) -> Iterator[np.ndarray]:
        at_once = max(1, _PLANNED_AT_ONCE // self.order.rows_of_rank(self._world_size))
        for first in range(0, len(steps), at_once):
            planned = steps[first : first + at_once]
            rows = self.order.batches(order, epoch=epoch, steps=planned, rank=self._rank, world_size=self._world_size)
            for step, own in zip(planned, rows, strict=True):
                ahead.reach(self.order.num_reached(step + 1) - 1)
                yield own

    def _read_ahead(self, epoch: int) -> ReadAhead:
        window = self.config.shards_at_once
        shards = self.order.shards(epoch)
        ends = np.cumsum(np.asarray(self.order.shard_sizes)[shards])
        # An epoch that shows a part of the samples ends within a window: the shards behind it are the next epoch's.
        last = int(np.searchsorted(ends, self.order.num_reached(len(self))))
        num_used = min((last // window + 1) * window, len(shards))
        shards, ends = shards[:num_used], ends[:num_used]
        return ReadAhead(
            self.records.reader,
            schedule=shards,
            following=self.order.shards(epoch + 1)[: max(window, self.records.memory.shards_ahead)],
            window_ends=ends[np.minimum(np.arange(window, len(shards) + window, window), len(shards)) - 1],
            window=window,
            shards_ahead=self.records.memory.shards_ahead,
        )

    def _epoch_order(self, epoch: int) -> EpochOrder:
        known = self._next_order
        return known[1] if known is not None and known[0] == epoch else self.order.epoch(epoch)

    def _remember_order(self, epoch: int) -> None:
        order = self.order.epoch(epoch)
        # Makes and keeps the first window, which the next epoch would wait for.
        self.order.batch(order, epoch=epoch, step=0, rank=self._rank, world_size=self._world_size)
        self._next_order = epoch, order

    def state_dict(self) -> dict[str, Any]:
        """Where the stream stands: before the batch that comes next."""
        order, position = self.order, self._step * self.order.batch_size
        return StreamState(self.records.digest, order.seed, self._epoch, position, order.description).as_dict()

    def load_state_dict(self, values: dict[str, Any]) -> None:
        """Resume where `state_dict` was taken, on any number of ranks.

        Raises: CacheMismatchError when it was taken from another cache, seed, order or batch size.
        """
        state = StreamState.from_dict(values)
        self._step = state.step(self.records.digest, self.order)
        self._epoch = state.epoch

    def _prepare(self, buffers: BatchBuffers, rows: np.ndarray) -> list[Callable[[], None]]:
        buffers.set_rows(rows)
        return [partial(self.records.fill, buffers, rows, part) for part in self.records.pieces(len(rows))]


def _in_place(filled: Generator[BatchBuffers]) -> Generator[Batch]:
    for buffers in filled:
        yield buffers.batch
