import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError

import pytest

from kdcache.ordered_map import ordered_map


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(3) as pool:
        yield pool


@pytest.mark.parametrize("ahead", [1, 2, 5, 100])
def test_results_come_in_order(pool: ThreadPoolExecutor, ahead: int) -> None:
    def slower_when_early(item: int) -> int:
        time.sleep(0.001 * (20 - item))
        return item * item

    assert list(ordered_map(slower_when_early, range(20), pool, ahead=ahead)) == [item * item for item in range(20)]
    assert list(ordered_map(slower_when_early, [], pool, ahead=ahead)) == []


@pytest.mark.parametrize("ahead", [1, 2, 4])
def test_items_are_taken_only_as_far_ahead_as_allowed(pool: ThreadPoolExecutor, ahead: int) -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for item in range(10):
            taken.append(item)
            yield item

    for at, result in enumerate(ordered_map(lambda item: item, items(), pool, ahead=ahead)):
        assert result == at
        assert len(taken) == min(at + ahead, 10)


def test_calls_run_at_the_same_time(pool: ThreadPoolExecutor) -> None:
    meeting = threading.Barrier(3)
    results = ordered_map(lambda _: meeting.wait(30) >= 0, range(3), pool, ahead=3)
    assert list(results) == [True] * 3


@pytest.mark.parametrize("ahead", [1, 3])
def test_an_error_comes_in_place_of_its_result(pool: ThreadPoolExecutor, ahead: int) -> None:
    def broken_at_two(item: int) -> int:
        if item == 2:
            raise OSError("broken")
        return item

    results = ordered_map(broken_at_two, range(5), pool, ahead=ahead)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(OSError, match="broken"):
        next(results)


def test_an_error_of_the_items_reaches_the_consumer(pool: ThreadPoolExecutor) -> None:
    def items() -> Iterator[int]:
        yield 1
        raise OSError("no more items")

    with pytest.raises(OSError, match="no more items"):
        list(ordered_map(lambda item: item, items(), pool, ahead=2))


def test_what_has_not_begun_is_dropped_when_the_consumer_leaves() -> None:
    begun: list[int] = []
    release = threading.Event()

    def call(item: int) -> int:
        begun.append(item)
        if item:
            release.wait(30)
        return item

    with ThreadPoolExecutor(1) as pool:
        results = ordered_map(call, range(100), pool, ahead=10)
        assert next(results) == 0
        results.close()
        release.set()
    assert len(begun) <= 2


def test_a_call_that_takes_too_long(pool: ThreadPoolExecutor) -> None:
    release = threading.Event()
    results = ordered_map(lambda item: item == 1 and release.wait(30), range(3), pool, ahead=3, timeout_s=0.1)
    assert next(results) is False
    with pytest.raises(FutureTimeoutError):
        next(results)
    release.set()


def test_nothing_ahead_is_impossible(pool: ThreadPoolExecutor) -> None:
    with pytest.raises(ValueError, match="at least 1, got 0"):
        next(ordered_map(lambda item: item, [1], pool, ahead=0))
