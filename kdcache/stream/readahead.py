"""Work in the background of a stream: shards are opened before they are needed, and checked where that was put off.

This is no `ordered_map`: nothing is handed on, the reader keeps what was opened, and how far ahead to open follows from
the stream's position in its window. Its threads are daemons, which a program can end while they hash.
"""

import atexit
import bisect
import contextlib
import math
import queue
import threading
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import final

import numpy as np

from kdcache.cancel import Cancelled, CancelToken
from kdcache.reading.reader import ShardReader

_OPENERS = 2


@final
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
            if self._thread.is_alive():  # not if its start was interrupted
                self._thread.join()

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            work()


@final
class ReadAhead:
    """Opens the shards of an epoch window by window, always some of the next window while one is in use.

    Leaving the block with an exception ends all work within one piece of a file; leaving it normally lets a check
    finish its shard, so that checks get done however short the epochs are.

    Args:
        reader: Opens and checks the shards.
        schedule: Shard numbers in the order of their windows.
        following: What the next epoch begins with.
        window_ends: Position in the epoch at which each window ends.
        window: Shards in a window.
        shards_ahead: How many of the next window may be open while a window is in use.
    """

    def __init__(
        self,
        reader: ShardReader,
        *,
        schedule: np.ndarray,
        following: np.ndarray,
        window_ends: np.ndarray,
        window: int,
        shards_ahead: int,
    ) -> None:
        self._reader = reader
        # Plain lists: numpy takes longer to look at one number than this takes altogether.
        self._schedule, self._ends = [*schedule.tolist(), *following.tolist()], window_ends.tolist()
        self._num_own = len(schedule)
        self._window, self._shards_ahead = window, shards_ahead
        self._next = 0
        # One ends work at the next piece of a file, the other after the present shard.
        self._cancel, self._finish = CancelToken(), CancelToken()
        self._openers = [_Worker(f"kdcache-ahead-{number}") for number in range(_OPENERS)]
        self._checker = _Worker("kdcache-check")
        self._is_checking = False
        self._damage: Exception | None = None
        reader.begin(self._cancel)

    def reach(self, position: int) -> None:
        """Say that the stream stands at this sample of the epoch.

        Raises: CorruptCacheError when a check in the background has found damage.
        """
        number = bisect.bisect_right(self._ends, position)
        if number < len(self._ends):
            begin = self._ends[number - 1] if number else 0
            done = (position - begin) / (self._ends[number] - begin)
            target = min(self._window * (number + 1), self._num_own) + math.ceil(done * self._shards_ahead)
            self._next = max(self._next, self._window * number)
            for shard in self._schedule[self._next : target]:
                if not self._reader.has(shard):
                    self._openers[shard % _OPENERS].do(partial(self._open, shard))
            self._next = max(self._next, min(target, len(self._schedule)))
        if self._damage is not None:
            raise self._damage
        if not self._is_checking and len(self._reader.unchecked):
            self._is_checking = True
            self._checker.do(self._check)

    def run(self, work: Callable[[], None]) -> None:
        """Do something else that will be needed later; it must not raise."""
        self._openers[0].do(work)

    def cancel(self) -> None:
        """End everything at the next piece of a file."""
        self._finish.cancel()
        self._cancel.cancel()

    def _open(self, number: int) -> None:
        # An error is not lost: whoever needs the shard tries again and is told.
        with contextlib.suppress(Exception):
            if not self._cancel.cancelled:
                self._reader.shard(number, self._cancel)

    def _check(self) -> None:
        try:
            self._reader.check_unchecked(self._cancel, self._finish)
        except Exception as error:
            self._damage = error
        self._is_checking = False

    def _end(self) -> None:
        self.cancel()
        for opener in self._openers:
            opener.end()
        self._checker.end()

    def __enter__(self) -> "ReadAhead":
        atexit.register(self._end)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._finish.cancel()
        if kind is None:
            self._checker.end()
        self._end()
        atexit.unregister(self._end)
        if kind is None and self._damage is not None and not isinstance(self._damage, Cancelled):
            raise self._damage
