"""Three stages at once: reading in threads, computing here, writing in one thread. Counts what each waits for."""

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

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

    def shares(self) -> dict[str, float]:
        """Each stage's share of the time."""
        total = max(self.read_s + self.compute_s + self.write_s, 1e-9)
        return {"read": self.read_s / total, "compute": self.compute_s / total, "write": self.write_s / total}


class Background(Generic[Item]):
    """Runs an iterable in a thread of its own, a few items ahead; its error is raised to the consumer.

    Args:
        items: Consumed in the thread.
        ahead: Items that may wait.
        times: Gets the seconds the consumer waited.
    """

    def __init__(self, items: Iterable[Item], *, ahead: int, times: StageTimes) -> None:
        self._queue: queue.Queue[tuple[Item | None, BaseException | None, bool]] = queue.Queue(ahead)
        self._stopped = threading.Event()
        self._times = times
        self._thread = threading.Thread(target=self._run, args=(items,), daemon=True, name="kdcache-read")
        self._thread.start()

    def _run(self, items: Iterable[Item]) -> None:
        error: BaseException | None = None
        try:
            for item in items:
                if not self._put((item, None, False)):
                    break
        except BaseException as caught:  # handed to the consumer, whatever it is
            error = caught
        finally:
            if isinstance(items, Generator):
                items.close()
        self._put((None, error, True))

    def _put(self, message: tuple[Item | None, BaseException | None, bool]) -> bool:
        while not self._stopped.is_set():
            try:
                self._queue.put(message, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def __iter__(self) -> Generator[Item]:
        while True:
            asked = time.perf_counter()
            item, error, is_last = self._queue.get()
            self._times.read_s += time.perf_counter() - asked
            if error is not None:
                raise error
            if is_last:
                return
            yield item  # pyright: ignore[reportReturnType]

    def stop(self) -> None:
        """Let the thread end soon, without waiting for it."""
        self._stopped.set()


class WriteStage:
    """Runs tasks one after the other in one thread; at most a few wait. A task's error is raised at the next call.

    Args:
        behind: Tasks that may wait.
        times: Gets the seconds `submit` waited.
    """

    def __init__(self, *, behind: int, times: StageTimes) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="kdcache-write")
        self._pending: deque[Future[None]] = deque()
        self._behind = behind
        self._times = times

    def submit(self, task: Callable[[], None]) -> None:
        """Queue a task, waiting while too many are pending."""
        asked = time.perf_counter()
        while len(self._pending) >= self._behind or (self._pending and self._pending[0].done()):
            self._pending.popleft().result()
        self._times.write_s += time.perf_counter() - asked
        self._pending.append(self._pool.submit(task))

    def finish(self) -> None:
        """Wait for all tasks."""
        asked = time.perf_counter()
        while self._pending:
            self._pending.popleft().result()
        self._times.write_s += time.perf_counter() - asked

    def close(self) -> None:
        """Drop what has not begun and wait for the task that has."""
        self._pool.shutdown(wait=True, cancel_futures=True)
