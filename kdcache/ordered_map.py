"""A map that works ahead: results come in the order of the items, with a few calls in flight."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Executor, Future
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def ordered_map(
    fn: Callable[[Item], Result],
    items: Iterable[Item],
    pool: Executor,
    *,
    ahead: int,
    timeout_s: float | None = None,
) -> Generator[Result]:
    """Yield fn(item) in the order of the items, with at most `ahead` calls in flight.

    An item is taken only when its call can begin. However the iteration ends, calls that have not begun are dropped.

    Args:
        fn: Called in the pool.
        items: Taken one at a time, in the consumer's thread.
        pool: Makes the calls.
        ahead: At least 1, which makes one call at a time.
        timeout_s: Seconds to wait for a result, counted from the moment it is the next one; None waits for ever.

    Raises: what `fn` raises, in place of its result; concurrent.futures.TimeoutError; ValueError for `ahead` below 1.
    """
    if ahead < 1:
        raise ValueError(f"ahead must be at least 1, got {ahead}")
    pending: deque[Future[Result]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(fn, item))
            if len(pending) >= ahead:
                yield pending.popleft().result(timeout_s)
        while pending:
            yield pending.popleft().result(timeout_s)
    finally:
        for call in pending:
            call.cancel()
