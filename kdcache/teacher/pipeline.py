"""Three stages at once: reading in threads, computing here, writing in one thread. Counts what each waits for.

Reading is an `ordered_map`, from which the computing stage takes batches. Writing is not: there the computing stage
hands tasks on, and nobody takes results.
"""

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from enum import Enum, auto
from itertools import repeat
from typing import Generic, Literal, TypeVar, final

from kdcache.cancel import CancelToken
from kdcache.ordered_map import ordered_map

Item = TypeVar("Item")


@dataclass
class StageTimes:
    """Where the computing thread spent its time, in seconds.

    Attributes:
        read_s: Waiting for images: reading limits.
        compute_s: In the teacher: computing limits.
        write_s: Waiting for the writer to take more: writing limits.
    """

    read_s: float = 0.0
    compute_s: float = 0.0
    write_s: float = 0.0

    @property
    def bottleneck(self) -> str:
        """read, compute or write."""
        times = {"read": self.read_s, "compute": self.compute_s, "write": self.write_s}
        return max(times, key=lambda stage: times[stage])

    def add(self, other: "StageTimes") -> None:
        """Add the seconds of another worker."""
        self.read_s += other.read_s
        self.compute_s += other.compute_s
        self.write_s += other.write_s

    def shares(self) -> dict[str, float]:
        """Each stage's fraction of the time."""
        total = max(self.read_s + self.compute_s + self.write_s, 1e-9)
        return {"read": self.read_s / total, "compute": self.compute_s / total, "write": self.write_s / total}


class _End(Enum):
    """What comes after the last item."""

    END = auto()


@final
class Background(Generic[Item]):
    """Runs an iterable in a thread of its own, a few items ahead; its error is raised to the consumer.

    Args:
        items: Consumed in the thread.
        ahead: Items that may wait.
        times: Gets the seconds the consumer waited.
    """

    def __init__(self, items: Iterable[Item], *, ahead: int, times: StageTimes) -> None:
        self._items, self._times = iter(items), times
        self._cancel = CancelToken()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="kdcache-read")
        # One more call than items may wait: the consumer has taken the result of one.
        self._ahead = ordered_map(self._take, repeat(None), self._pool, ahead=ahead + 1)

    def _take(self, _: None) -> Item | Literal[_End.END]:
        return _End.END if self._cancel.cancelled else next(self._items, _End.END)

    def __iter__(self) -> Generator[Item]:
        while True:
            asked = time.perf_counter()
            item = next(self._ahead, _End.END)
            self._times.read_s += time.perf_counter() - asked
            if item is _End.END:
                return
            yield item

    def stop(self) -> None:
        """Let the thread end soon and close a generator there, without waiting for it; may be called again."""
        if self._cancel.cancelled:
            return
        self._cancel.cancel()
        self._ahead.close()
        if isinstance(self._items, Generator):
            self._pool.submit(self._items.close)
        self._pool.shutdown(wait=False)


@final
class WriteStage:
    """Runs tasks one after the other in one thread; at most a few wait.

    A task's error is raised at the next call. Tasks behind one that failed do not run: what they would finish lacks
    what the failed one would have written.

    Args:
        behind: Tasks that may wait.
        times: Gets the seconds `submit` waited.
    """

    def __init__(self, *, behind: int, times: StageTimes) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="kdcache-write")
        self._pending: deque[Future[None]] = deque()
        self._behind = behind
        self._times = times
        self._has_failed = False

    def submit(self, task: Callable[[], None]) -> None:
        """Queue a task, waiting while too many are pending."""
        asked = time.perf_counter()
        while len(self._pending) >= self._behind or (self._pending and self._pending[0].done()):
            self._pending.popleft().result()
        self._times.write_s += time.perf_counter() - asked
        self._pending.append(self._pool.submit(self._run, task))

    def _run(self, task: Callable[[], None]) -> None:
        if self._has_failed:
            return
        try:
            task()
        except BaseException:
            self._has_failed = True
            raise

    def finish(self) -> None:
        """Wait for all tasks."""
        asked = time.perf_counter()
        while self._pending:
            self._pending.popleft().result()
        self._times.write_s += time.perf_counter() - asked

    def close(self) -> None:
        """Drop what has not begun and wait for the task that has."""
        self._pool.shutdown(wait=True, cancel_futures=True)
