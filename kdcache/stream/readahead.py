"""Work beside the stream: shards are opened before they are needed, and checked where that was put off."""

import bisect
import math
from collections.abc import Callable, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Protocol

import numpy as np

from kdcache.stream.gather import KeepOn


class Shards(Protocol):
    """What is opened and checked; errors of opening are left to whoever needs the shard."""

    @property
    def unchecked(self) -> Sized:
        """Numbers of shards that are open and not checked."""
        ...

    def shard(self, number: int, keep_on: KeepOn | None = None) -> Any:
        """Open a shard and bring it into memory while `keep_on` says so."""

    def has(self, number: int) -> bool:
        """Whether a shard is open; asking counts as using it."""
        ...

    def check_unchecked(self, keep_on: KeepOn, go_on: KeepOn) -> None:
        """Check what is unchecked: whole shards while `go_on` says so, breaking off when `keep_on` says stop."""


class ReadAhead:
    """Opens the shards of an epoch window by window, always some of the next window while one is in use.

    Leaving the block with an exception ends all work within one piece of a file; leaving it normally lets a check
    finish its shard, so that checks get done however short the epochs are.

    Args:
        shards: What to open.
        schedule: Shard numbers in the order of their windows.
        following: What the next epoch begins with.
        window_ends: Position in the epoch at which each window ends.
        window: Shards in a window.
        shards_ahead: How many of the next window may be open while a window is in use.
    """

    def __init__(
        self,
        shards: Shards,
        *,
        schedule: np.ndarray,
        following: np.ndarray,
        window_ends: np.ndarray,
        window: int,
        shards_ahead: int,
    ) -> None:
        self._shards = shards
        # Plain lists: numpy takes longer to look at one number than this takes altogether.
        self._schedule, self._ends = [*schedule.tolist(), *following.tolist()], window_ends.tolist()
        self._num_own = len(schedule)
        self._window, self._shards_ahead = window, shards_ahead
        self._next = 0
        self._keep_on, self._go_on = KeepOn(), KeepOn()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="kdcache-ahead")
        self._check_pool = ThreadPoolExecutor(1, thread_name_prefix="kdcache-check")
        self._check: Future[None] | None = None

    def reach(self, position: int) -> None:
        """Say that the stream stands at this sample of the epoch.

        Raises: CorruptCacheError when a check beside the stream has found damage.
        """
        number = bisect.bisect_right(self._ends, position)
        if number < len(self._ends):
            begin = self._ends[number - 1] if number else 0
            done = (position - begin) / (self._ends[number] - begin)
            target = min(self._window * (number + 1), self._num_own) + math.ceil(done * self._shards_ahead)
            self._next = max(self._next, self._window * number)
            for shard in self._schedule[self._next : target]:
                if not self._shards.has(shard):
                    self._pool.submit(self._shards.shard, shard, self._keep_on)
            self._next = max(self._next, min(target, len(self._schedule)))
        if self._check is not None and self._check.done():
            self._check.result()
            self._check = None
        if self._check is None and len(self._shards.unchecked):
            self._check = self._check_pool.submit(self._shards.check_unchecked, self._keep_on, self._go_on)

    def run(self, work: Callable[[], None]) -> None:
        """Do something else that will be needed later."""
        self._pool.submit(work)

    def __enter__(self) -> "ReadAhead":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._go_on.stop()
        if kind is not None:
            self._keep_on.stop()
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._check_pool.shutdown(wait=True, cancel_futures=True)
        if kind is None and self._check is not None:
            self._check.result()
