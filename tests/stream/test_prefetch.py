import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from kdcache.stream.prefetch import prefetched


def start(pool: ThreadPoolExecutor, buffer: list[int], order: int) -> list[Future[None]]:
    def fill() -> None:
        time.sleep(0.001 * (order % 3))
        if order == 99:
            raise RuntimeError("broken record")
        buffer[0] = order

    return [pool.submit(fill)]


def test_batches_come_in_order_and_stay_until_the_next() -> None:
    buffers = [[-1] for _ in range(3)]
    seen: list[int] = []
    for buffer, order in prefetched(range(20), buffers, start, num_threads=4):
        time.sleep(0.002)
        assert buffer[0] == order
        seen.append(order)
    assert seen == list(range(20))


def test_no_orders() -> None:
    assert list(prefetched([], [[0], [0]], start, num_threads=1)) == []


def test_an_error_reaches_the_consumer_and_threads_end() -> None:
    before = threading.active_count()
    with pytest.raises(RuntimeError, match="broken record"):
        for _ in prefetched([1, 2, 99, 3], [[0], [0], [0]], start, num_threads=2):
            pass
    assert threading.active_count() == before


def test_leaving_early_ends_the_threads() -> None:
    before = threading.active_count()
    stream = prefetched(range(100), [[0], [0], [0]], start, num_threads=2)
    next(stream)
    stream.close()
    assert threading.active_count() == before


def test_one_buffer_is_not_enough() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        next(prefetched([1], [[0]], start, num_threads=1))
