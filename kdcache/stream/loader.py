"""The stream of batches that a student trains on."""

import contextlib
import os
import time
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

import numpy as np
import torch

from kdcache.stream.batch import Batch, BatchBuffers
from kdcache.stream.budget import MemoryPlan
from kdcache.stream.device import DeviceCopies, resolved
from kdcache.stream.files import Access
from kdcache.stream.order import StreamOrder, Tail
from kdcache.stream.prefetch import prefetched
from kdcache.stream.readahead import ReadAhead, Shards
from kdcache.stream.reader import CheckPolicy
from kdcache.stream.state import StreamState

ImageForm = Literal["pixels", "encoded", "none"]
_MAX_DEFAULT_THREADS = 8
_PLANNED_AT_ONCE = 64


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
        images: ``pixels`` decodes and replays the views, ``encoded`` hands out the files, ``none`` leaves images out.
        num_threads: Threads that read, decode and replay; None takes the cores this process may use, at most 8.
        num_buffers: Batches in memory, including the one in use.
        memory_budget: Bytes for batch buffers and mapped shards; None takes a quarter of the memory.
        access: One of the ways of files.py: ``map``, ``kernel`` or ``read``; auto takes the first that is possible.
        check: Every file's hash before its first use (``full``), soon after it (``background``), or its size only.
        check_pixels: Share of views whose pixels are compared with the hash of what the teacher saw.
        require_labels: Refuse samples without a label.
    """

    batch_size: int
    seed: int = 0
    shuffle: bool = True
    window: int = 16
    views_per_sample: int = 1
    tail: Tail = "drop"
    images: ImageForm = "pixels"
    num_threads: int | None = None
    num_buffers: int = 3
    memory_budget: int | None = None
    access: Access = "auto"
    check: CheckPolicy = "full"
    check_pixels: float = 1 / 64
    require_labels: bool = False

    def __post_init__(self) -> None:
        if self.num_threads is not None and self.num_threads < 1:
            raise ValueError(f"num_threads must be at least 1, got {self.num_threads}")
        if self.num_buffers < 2:
            raise ValueError(f"num_buffers must be at least 2, got {self.num_buffers}")
        if self.images not in get_args(ImageForm):
            raise ValueError(f"images must be pixels, encoded or none, got {self.images!r}")

    @property
    def threads(self) -> int:
        """Threads that will work."""
        return self.num_threads or min(len(os.sched_getaffinity(0)), _MAX_DEFAULT_THREADS)

    @property
    def shards_at_once(self) -> int:
        """Shards that are in use at a time."""
        return self.window if self.shuffle else 1

    def order(self, shard_sizes: Sequence[int], num_views: int) -> StreamOrder:
        """The order in which these shards are streamed. Raises: ValueError for what is impossible with them."""
        return StreamOrder(
            shard_sizes=tuple(shard_sizes),
            num_views=num_views,
            batch_size=self.batch_size,
            seed=self.seed,
            shuffle=self.shuffle,
            window=self.window,
            views_per_sample=self.views_per_sample,
            tail=self.tail,
        )


class Records(ABC):
    """What a loader streams: fills rows of batches from one kind of storage; used by several threads at once.

    Attributes:
        digest: Identity of what is streamed, hex.
        order: In which order.
        memory: What fits where.
    """

    digest: str
    order: StreamOrder
    memory: MemoryPlan

    @property
    @abstractmethod
    def shards(self) -> Shards:
        """Opens shards ahead of need."""

    @abstractmethod
    def new_buffers(self, batch_size: int, *, pinned: bool) -> BatchBuffers:
        """Memory for one batch of this rank."""

    @abstractmethod
    def pieces(self, num_rows: int) -> list[slice]:
        """How a batch is divided among the threads."""

    @abstractmethod
    def fill(self, buffers: BatchBuffers, rows: np.ndarray, part: slice) -> None:
        """Fill some rows of a batch.

        Args:
            buffers: Of the batch.
            rows: (B, 2) int64, sample and view numbers of the whole batch.
            part: Which of the rows.
        """


class Loader:
    """Batches of one rank, epoch after epoch; iterate it once per epoch.

    Every pass of ``for batch in loader`` goes to the end of the current epoch and leaves the loader at the beginning of
    the next. The buffers of a batch are reused: see Batch.

    Args:
        records: What to stream.
        config: How to stream.
        rank, world_size: This process among its siblings.
        device: Where batches are delivered. For an accelerator, host buffers are page-locked and the copy of the next
            batch overlaps the step on the present one; targets stay packed.

    Raises: ValueError for a batch that does not divide among the ranks.

    Attributes:
        wait_s: Seconds the consumer has waited for batches so far.
    """

    def __init__(
        self,
        records: Records,
        config: StreamConfig,
        *,
        rank: int = 0,
        world_size: int = 1,
        device: torch.device | str = "cpu",
    ) -> None:
        self.records = records
        self.config = config
        self.order = records.order
        self.device = resolved(torch.device(device))
        self._rank, self._world_size = rank, world_size
        rows = len(self.order.batch(np.zeros(1, np.int64), epoch=0, step=0, rank=rank, world_size=world_size))
        pinned = self.device.type == "cuda"
        self._buffers = [records.new_buffers(rows, pinned=pinned) for _ in range(config.num_buffers)]
        self._next_order: tuple[int, np.ndarray] | None = None
        self._copies = None if self.device.type == "cpu" else DeviceCopies(self.device)
        self._present: weakref.ref[Generator[tuple[int, Batch]]] | None = None
        self._epoch, self._step = 0, 0
        self.wait_s = 0.0

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
        """A new pass ends an older one that somebody still holds: there is one set of buffers."""
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
                on_break=ahead.stop,  # before the threads are waited for: one may be hashing a shard
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

    def _rows(self, order: np.ndarray, epoch: int, steps: range, ahead: ReadAhead) -> Iterator[np.ndarray]:
        for first in range(0, len(steps), _PLANNED_AT_ONCE):
            planned = steps[first : first + _PLANNED_AT_ONCE]
            rows = self.order.batches(order, epoch=epoch, steps=planned, rank=self._rank, world_size=self._world_size)
            for step, own in zip(planned, rows, strict=True):
                ahead.reach(min((step + 1) * self.order.samples_per_batch, len(order)) - 1)
                yield own

    def _read_ahead(self, epoch: int) -> ReadAhead:
        window = self.config.shards_at_once
        shards = self.order.shards(epoch)
        ends = np.cumsum(np.asarray(self.order.shard_sizes)[shards])
        return ReadAhead(
            self.records.shards,
            schedule=shards,
            following=self.order.shards(epoch + 1)[: max(window, self.records.memory.shards_ahead)],
            window_ends=ends[np.minimum(np.arange(window, len(shards) + window, window), len(shards)) - 1],
            window=window,
            shards_ahead=self.records.memory.shards_ahead,
        )

    def _epoch_order(self, epoch: int) -> np.ndarray:
        known = self._next_order
        return known[1] if known is not None and known[0] == epoch else self.order.epoch(epoch)

    def _remember_order(self, epoch: int) -> None:
        self._next_order = epoch, self.order.epoch(epoch)

    def state_dict(self) -> dict[str, Any]:
        """Where the stream stands: before the batch that comes next."""
        position = self._step * self.order.samples_per_batch
        return StreamState(
            self.records.digest, self.config.seed, self._epoch, position, self.order.description
        ).as_dict()

    def load_state_dict(self, values: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken, on any number of ranks.

        Raises: CacheMismatchError when it was taken from another cache, seed, order or batch size.
        """
        state = StreamState.from_dict(values)
        samples = self.order.samples_per_batch
        self._step = state.step(
            cache=self.records.digest, seed=self.config.seed, samples_per_batch=samples, order=self.order.description
        )
        self._epoch = state.epoch

    def _prepare(self, buffers: BatchBuffers, rows: np.ndarray) -> list[Callable[[], None]]:
        buffers.set_rows(rows)
        return [partial(self.records.fill, buffers, rows, part) for part in self.records.pieces(len(rows))]


def _in_place(filled: Generator[BatchBuffers]) -> Generator[Batch]:
    for buffers in filled:
        yield buffers.batch
