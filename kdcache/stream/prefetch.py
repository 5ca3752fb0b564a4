"""Keeping a few batches in flight: threads fill reused buffers while the consumer works on an earlier batch."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Buffers = TypeVar("Buffers")
Order = TypeVar("Order")

Start = Callable[[ThreadPoolExecutor, Buffers, Order], list[Future[None]]]


def prefetched(
    orders: Iterable[Order], buffers: list[Buffers], start: Start[Buffers, Order], *, num_threads: int
) -> Generator[tuple[Buffers, Order]]:
    """Yield filled buffers in the order of the orders.

    A buffer belongs to the consumer until it asks for the next one.

    Args:
        orders: What to fill, one order a batch.
        buffers: The ring; at least two, of which one is with the consumer and the others are being filled.
        start: Submits the work of one order and returns its futures; a future's error is raised to the consumer.
        num_threads: Size of the pool.
    """
    if len(buffers) < 2:
        raise ValueError(f"prefetching needs at least 2 buffers, got {len(buffers)}")
    free = deque(buffers)
    in_flight: deque[tuple[Buffers, Order, list[Future[None]]]] = deque()
    remaining = iter(orders)
    pool = ThreadPoolExecutor(num_threads, thread_name_prefix="kdcache-stream")
    try:
        while True:
            while free and (order := next(remaining, None)) is not None:
                buffer = free.popleft()
                in_flight.append((buffer, order, start(pool, buffer, order)))
            if not in_flight:
                return
            buffer, order, futures = in_flight.popleft()
            for future in futures:
                future.result()
            yield buffer, order
            free.append(buffer)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
