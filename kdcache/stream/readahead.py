"""Work beside the stream: shards are opened before they are needed, and checked where that was put off."""

import atexit
import bisect
import contextlib
import math
import queue
import threading
from collections.abc import Callable, Sized
from functools import partial
from types import TracebackType
from typing import Any, Protocol

import numpy as np

from kdcache.stream.files import Interrupted, KeepOn

_OPENERS = 2


class Shards(Protocol):
    """What is opened and checked; errors of opening are left to whoever needs the shard."""

    @property
    def unchecked(self) -> Sized:
        """Numbers of shards that are open and not checked."""
        ...

    def shard(self, number: int, keep_on: KeepOn | None = None) -> Any:
        """Open a shard and bring it into memory while `keep_on` says so."""

    def begin(self, keep_on: KeepOn) -> None:
        """A pass begins: whoever opens a shard for it breaks off when `keep_on` says stop."""

    def has(self, number: int) -> bool:
        """Whether a shard is open; asking counts as using it."""
        ...

    def check_unchecked(self, keep_on: KeepOn, go_on: KeepOn) -> None:
        """Check what is unchecked: whole shards while `go_on` says so, breaking off when `keep_on` says stop."""


class _Worker:
    """A thread that does one thing after the other; a daemon, so that a program can end while it works."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._work: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def do(self, work: Callable[[], object]) -> None:
        """Do this when everything before is done; it must not raise."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()
        self._work.put(work)

    def end(self) -> None:
        """Wait until everything is done; may be called again."""
        if self._thread is not None:
            self._work.put(None)
            self._thread.join()

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            work()


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
        self._openers = [_Worker(f"kdcache-ahead-{number}") for number in range(_OPENERS)]
        self._checker = _Worker("kdcache-check")
        self._is_checking = False
        self._damage: Exception | None = None
        shards.begin(self._keep_on)

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
                    self._openers[shard % _OPENERS].do(partial(self._open, shard))
            self._next = max(self._next, min(target, len(self._schedule)))
        if self._damage is not None:
            raise self._damage
        if not self._is_checking and len(self._shards.unchecked):
            self._is_checking = True
            self._checker.do(self._check)

    def run(self, work: Callable[[], None]) -> None:
        """Do something else that will be needed later; it must not raise."""
        self._openers[0].do(work)

    def stop(self) -> None:
        """Break everything off at the next piece of a file."""
        self._go_on.stop()
        self._keep_on.stop()

    def _open(self, number: int) -> None:
        # An error is not lost: whoever needs the shard tries again and is told.
        with contextlib.suppress(Exception):
            if self._keep_on:
                self._shards.shard(number, self._keep_on)

    def _check(self) -> None:
        try:
            self._shards.check_unchecked(self._keep_on, self._go_on)
        except Exception as error:
            self._damage = error
        self._is_checking = False

    def _end(self) -> None:
        self.stop()
        for opener in self._openers:
            opener.end()
        self._checker.end()

    def __enter__(self) -> "ReadAhead":
        atexit.register(self._end)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._go_on.stop()
        if kind is None:
            self._checker.end()
        self._end()
        atexit.unregister(self._end)
        if kind is None and self._damage is not None and not isinstance(self._damage, Interrupted):
            raise self._damage
