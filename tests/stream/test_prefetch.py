import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from kdcache.stream.prefetch import prefetched


def start(buffer: list[int], order: int) -> list[Callable[[], None]]:
    def fill() -> None:
        time.sleep(0.001 * (order % 3))
        if order == 99:
            raise RuntimeError("broken record")
        buffer[0] = order

    return [fill]


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


def test_pieces_of_a_batch_are_worked_on_at_once() -> None:
    meeting = threading.Barrier(3)

    def prepare(buffer: list[int], order: int) -> list[Callable[[], None]]:
        return [lambda: meeting.wait(30) and None for _ in range(3)]

    assert len(list(prefetched(range(5), [[0], [0]], prepare, num_threads=3))) == 5


def test_an_error_of_an_order_comes_after_the_batches_before_it() -> None:
    def orders() -> Iterator[int]:
        yield from range(4)
        raise RuntimeError("no more orders")

    seen: list[int] = []
    with pytest.raises(RuntimeError, match="no more orders"):
        for _, order in prefetched(orders(), [[0], [0], [0]], start, num_threads=2):
            seen.append(order)
    assert seen == [0, 1, 2, 3]


def test_a_batch_of_no_pieces() -> None:
    assert [order for _, order in prefetched(range(5), [[0], [0]], lambda *_: [], num_threads=2)] == list(range(5))


def test_a_stream_left_open_does_not_keep_the_program_from_ending() -> None:
    program = """
import time
from kdcache.stream.prefetch import prefetched
stream = prefetched(range(100), [[0], [0], [0]], lambda *_: [lambda: time.sleep(0.01)], num_threads=2)
next(stream)
print("left")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "left\n", "")
