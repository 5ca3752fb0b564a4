"""Keeping a few batches in flight: threads fill reused buffers while the consumer works on an earlier batch.

This is no `ordered_map`: the threads pull their work, whoever is done takes the next piece. A Future a batch gave 25 KB
records 0.76 of memcpy, this gives 1.19 (benchmarks/LOG.md, 2026-11-22): such a batch is copied in 0.3 ms.
"""

import atexit
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar, final

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
    workers = WorkerPool(iter(orders), buffers, prepare)
    threads = [
        threading.Thread(target=workers.work, name=f"kdcache-stream-{number}", daemon=True)
        for number in range(num_threads)
    ]

    def end() -> None:
        workers.stop()
        for thread in threads:
            if thread.ident is not None:  # it was started
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
            workers.give_back(batch.buffers)
    except BaseException:
        on_break()
        raise
    finally:
        end()
        atexit.unregister(break_off)


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

    Args:
        orders, buffers, prepare: As in `prefetched`.
    """

    def __init__(self, orders: Iterator[Order], buffers: Sequence[Buffers], prepare: Prepare[Buffers, Order]) -> None:
        self._orders = orders
        self._prepare = prepare
        self._free = deque(buffers)
        self._batches: deque[_Batch[Buffers, Order]] = deque()
        self._pieces: deque[tuple[_Batch[Buffers, Order], Piece]] = deque()
        self._is_over = False
        self._error: BaseException | None = None
        self._changed = threading.Condition(threading.Lock())

    def work(self) -> None:
        """What each thread does until there is nothing more."""
        while (found := self._next_piece()) is not None:
            batch, piece = found
            try:
                piece()
            except BaseException as error:
                batch.error = error
            with self._changed:
                batch.left -= 1
                if not batch.left:
                    batch.unfinished.release()

    def take(self) -> _Batch[Buffers, Order] | None:
        """The next batch, finished; None when all have been taken."""
        with self._changed:
            self._changed.wait_for(lambda: self._batches or self._is_over)
            if not self._batches:
                if self._error is not None:
                    raise self._error
                return None
            batch = self._batches.popleft()
        with batch.unfinished:
            if batch.error is not None:
                raise batch.error
        return batch

    def give_back(self, buffers: Buffers) -> None:
        """The consumer has done with a batch."""
        with self._changed:
            self._free.append(buffers)
            self._changed.notify()

    def stop(self) -> None:
        """Let the threads end after the piece they are at."""
        with self._changed:
            self._is_over = True
            self._pieces.clear()
            self._changed.notify_all()

    def _next_piece(self) -> tuple[_Batch[Buffers, Order], Piece] | None:
        with self._changed:
            while not self._pieces:
                if self._is_over:
                    return None
                if self._free:
                    self._begin_batch()
                else:
                    self._changed.wait()
            return self._pieces.popleft()

    def _begin_batch(self) -> None:
        try:
            order = next(self._orders)
            batch = _Batch(self._free.popleft(), order)
            pieces = self._prepare(batch.buffers, order)
        except BaseException as error:
            self._error = None if isinstance(error, StopIteration) else error
            self._is_over = True
            self._changed.notify_all()
            return
        batch.left = len(pieces)
        if pieces:
            batch.unfinished.acquire()
        self._pieces.extend((batch, piece) for piece in pieces)
        self._batches.append(batch)
        self._changed.notify_all()
