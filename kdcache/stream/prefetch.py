"""Keeping a few batches in flight: threads fill reused buffers while the consumer works on an earlier batch.

This is no `ordered_map`: the threads pull their work, whoever is done takes the next piece. A Future a batch gave 25 KB
records 0.76 of memcpy, this gives 1.19 (benchmarks/LOG.md, 2026-11-22): such a batch is copied in 0.3 ms.
"""

import atexit
import os
import queue
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar, final

from kdcache.errors import UsageError

Buffers = TypeVar("Buffers")
Order = TypeVar("Order")

Piece = Callable[[], None]
Prepare = Callable[[Buffers, Order], Sequence[Piece]]


def prefetched(
    orders: Iterable[Order],
    buffers: Sequence[Buffers],
    prepare: Prepare[Buffers, Order],
    *,
    num_threads: int,
    on_break: Callable[[], None] = lambda: None,
) -> Generator[tuple[Buffers, Order]]:
    """Yield filled buffers in the order of the orders.

    A buffer belongs to the consumer until it asks for the next one. Errors, of the orders themselves too, are raised to
    the consumer in place of the batch they concern.

    Args:
        orders: What to fill, one order a batch; the threads take them one at a time.
        buffers: The ring; at least two, of which one is with the consumer and the others are being filled.
        prepare: Divides the work of one order into pieces; quick.
        num_threads: How many threads work on the pieces.
        on_break: Called when the consumer leaves early or the program ends, before the threads are waited for; may
            hurry them.
    """
    if len(buffers) < 2:
        raise ValueError(f"prefetching needs at least 2 buffers, got {len(buffers)}")
    workers, process = WorkerPool(iter(orders), buffers, prepare), os.getpid()
    threads = [
        threading.Thread(target=workers.work, name=f"kdcache-stream-{number}", daemon=True)
        for number in range(num_threads)
    ]

    def end() -> None:
        workers.stop(num_threads)
        for thread in threads:
            if thread.is_alive():  # not if its start was interrupted
                thread.join()

    def break_off() -> None:
        on_break()
        end()

    try:
        # A stream that is open when the program ends must not keep it from ending, nor copy into what is torn down.
        atexit.register(break_off)
        for thread in threads:
            thread.start()
        while (batch := workers.take()) is not None:
            yield batch.buffers, batch.order
            if os.getpid() != process:
                raise UsageError(
                    f"this pass over the stream was begun by process {process}, whose threads fill its batches; begin "
                    "another pass in this one"
                )
            workers.give_back(batch.buffers)
    except BaseException:
        on_break()
        raise
    finally:
        end()
        atexit.unregister(break_off)


@dataclass
class _Free(Generic[Buffers]):
    """Buffers that wait for an order."""

    buffers: Buffers


@dataclass
class _Batch(Generic[Buffers, Order]):
    """A batch under way. `unfinished` is a lock that whoever finishes it releases."""

    buffers: Buffers
    order: Order
    left: int = 0
    error: BaseException | None = None
    unfinished: threading.Lock = field(default_factory=threading.Lock)


@final
class WorkerPool(Generic[Buffers, Order]):
    """What the threads and the consumer share.

    The consumer touches only queues and locks that are written in C, because Ctrl-C may interrupt it anywhere: a
    Condition, which is Python, stays locked when it is interrupted between taking its lock and returning from that.

    Args:
        orders, buffers, prepare: As in `prefetched`.
    """

    def __init__(self, orders: Iterator[Order], buffers: Sequence[Buffers], prepare: Prepare[Buffers, Order]) -> None:
        self._orders = orders
        self._prepare = prepare
        self._tasks: queue.SimpleQueue[tuple[_Batch[Buffers, Order], Piece] | _Free[Buffers] | None]
        self._tasks = queue.SimpleQueue()
        # An error of the orders, or None for their end, stands behind the last batch.
        self._batches: queue.SimpleQueue[_Batch[Buffers, Order] | BaseException | None] = queue.SimpleQueue()
        self._no_more_orders = self._is_stopped = False
        # The threads alone take these two.
        self._in_turn, self._counting = threading.Lock(), threading.Lock()
        for each in buffers:
            self.give_back(each)

    def work(self) -> None:
        """What each thread does until `stop`."""
        while (task := self._tasks.get()) is not None and not self._is_stopped:
            if isinstance(task, _Free):
                self._begin_batch(task.buffers)
            else:
                self._work_at(*task)

    def take(self) -> _Batch[Buffers, Order] | None:
        """The next batch, finished; None after the last, whereupon it may not be called again."""
        batch = self._batches.get()
        if isinstance(batch, BaseException):
            raise batch
        if batch is not None:
            batch.unfinished.acquire()
            if batch.error is not None:
                raise batch.error
        return batch

    def give_back(self, buffers: Buffers) -> None:
        """The consumer has done with a batch."""
        self._tasks.put(_Free(buffers))

    def stop(self, num_threads: int) -> None:
        """Let this many threads end after the piece they are at."""
        self._is_stopped = True
        for _ in range(num_threads):
            self._tasks.put(None)

    def _begin_batch(self, buffers: Buffers) -> None:
        with self._in_turn:
            if self._no_more_orders:
                return
            try:
                order = next(self._orders)
                pieces = self._prepare(buffers, order)
            except BaseException as error:
                self._no_more_orders = True
                self._batches.put(None if isinstance(error, StopIteration) else error)
                return
            batch = _Batch(buffers, order, left=len(pieces))
            if pieces:
                batch.unfinished.acquire()
            self._batches.put(batch)
            for piece in pieces:
                self._tasks.put((batch, piece))

    def _work_at(self, batch: _Batch[Buffers, Order], piece: Piece) -> None:
        try:
            piece()
        except BaseException as error:
            batch.error = error
        with self._counting:
            batch.left -= 1
            if not batch.left:
                batch.unfinished.release()
