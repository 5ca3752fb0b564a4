import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from kdcache.cancel import CancelToken
from kdcache.reading.lru import LRUCache


@dataclass
class Value:
    number: int
    mapped_bytes: int = 10


def make(opened: list[int], *, max_mapped_bytes: int | None = None, max_open: int = 3) -> LRUCache[Value]:
    def open_value(number: int, cancel: CancelToken | None) -> Value:
        opened.append(number)
        if number == 99:
            raise OSError("broken")
        return Value(number)

    return LRUCache(open_value, max_mapped_bytes=max_mapped_bytes, max_open=max_open)


def test_the_least_recently_used_goes_first() -> None:
    opened: list[int] = []
    cache = make(opened)
    for number in (0, 1, 2, 0, 3, 0, 1):
        assert cache.get(number).number == number
    assert opened == [0, 1, 2, 3, 1]


def test_the_budget_holds_and_one_always_stays() -> None:
    opened: list[int] = []
    cache = make(opened, max_mapped_bytes=20, max_open=100)
    for number in (0, 1, 2):
        cache.get(number)
    assert [number for number in range(4) if cache.has(number)] == [1, 2]
    narrow = make(opened, max_mapped_bytes=5)
    assert narrow.get(7) is narrow.get(7)


def test_many_threads_open_a_value_once() -> None:
    opened: list[int] = []
    gate = threading.Event()

    def slow(number: int, cancel: CancelToken | None) -> Value:
        gate.wait(10)
        opened.append(number)
        return Value(number)

    cache = LRUCache(slow, max_mapped_bytes=None, max_open=9)
    with ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(cache.get, 5) for _ in range(8)]
        gate.set()
        assert len({id(future.result()) for future in futures}) == 1
    assert opened == [5]


def test_a_failure_is_told_and_tried_again() -> None:
    opened: list[int] = []
    cache = make(opened)
    for _ in range(2):
        with pytest.raises(OSError, match="broken"):
            cache.get(99)
    assert opened == [99, 99]


def test_a_snapshot_stays_the_same_until_something_changes() -> None:
    opened: list[int] = []
    cache = make(opened)
    cache.get(0)
    before = cache.snapshot()
    cache.get(0)
    assert cache.snapshot() is before
    cache.get(1)
    assert (list(before), list(cache.snapshot())) == ([0], [0, 1])


def test_asking_counts_as_using() -> None:
    opened: list[int] = []
    cache = make(opened)
    for number in (0, 1, 2):
        cache.get(number)
    assert cache.has(0)
    cache.get(3)
    assert list(cache.snapshot()) == [2, 0, 3]
