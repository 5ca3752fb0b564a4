import threading
import time
from typing import Any

import numpy as np
import pytest

from kdcache.cancel import CancelToken
from kdcache.errors import CorruptCacheError
from kdcache.stream.readahead import ReadAhead


class FakeShards:
    def __init__(self) -> None:
        self.opened: list[int] = []
        self.unchecked: set[int] = set()
        self.fails = False
        self.checks_take_s = 0.0

    def shard(self, number: int, cancel: CancelToken | None = None) -> Any:
        self.opened.append(number)

    def begin(self, cancel: CancelToken) -> None:
        pass

    def has(self, number: int) -> bool:
        return number == 41

    def check_unchecked(self, cancel: CancelToken, finish: CancelToken) -> None:
        ends = time.monotonic() + self.checks_take_s
        while not cancel.cancelled and time.monotonic() < ends:
            time.sleep(0.001)
        if self.fails:
            raise CorruptCacheError("shard 3 is damaged")
        self.unchecked.clear()


def make(shards: FakeShards, *, shards_ahead: int = 2) -> ReadAhead:
    """Ten shards of ten samples, windows of four; the next epoch begins with 40 to 43."""
    return ReadAhead(
        shards,
        schedule=np.arange(10),
        following=np.arange(40, 44),
        window_ends=np.array([40, 80, 100]),
        window=4,
        shards_ahead=shards_ahead,
    )


def drain(ahead: ReadAhead) -> None:
    """Leaving cancels what has not begun, so wait for it."""
    for opener in ahead._openers:
        done = threading.Event()
        opener.do(done.set)
        assert done.wait(30)


def opened_at(position: int, **settings: Any) -> list[int]:
    shards = FakeShards()
    with make(shards, **settings) as ahead:
        ahead.reach(position)
        drain(ahead)
    return sorted(shards.opened)


def test_the_window_at_once_and_the_next_bit_by_bit() -> None:
    assert opened_at(0) == [0, 1, 2, 3]
    assert opened_at(1) == [0, 1, 2, 3, 4]
    assert opened_at(39) == [0, 1, 2, 3, 4, 5]
    assert opened_at(39, shards_ahead=0) == [0, 1, 2, 3]


def test_resuming_in_the_middle_skips_what_is_over() -> None:
    assert opened_at(45) == [4, 5, 6, 7, 8]


def test_the_last_window_looks_into_the_next_epoch() -> None:
    assert opened_at(99, shards_ahead=4) == [8, 9, 40, 42, 43], "41 is open already"
    assert opened_at(100) == []


def test_nothing_is_opened_twice() -> None:
    shards = FakeShards()
    with make(shards) as ahead:
        for position in range(0, 100, 7):
            ahead.reach(position)
        drain(ahead)
    assert sorted(shards.opened) == [*range(10), 40]


def test_damage_found_beside_the_stream_stops_it() -> None:
    shards = FakeShards()
    shards.unchecked, shards.fails = {3}, True
    with pytest.raises(CorruptCacheError, match="shard 3"), make(shards) as ahead:
        for position in range(100):
            ahead.reach(position)
            time.sleep(0.01)


def test_damage_found_at_the_very_end_is_not_lost() -> None:
    shards = FakeShards()
    shards.unchecked, shards.fails, shards.checks_take_s = {3}, True, 0.1
    with pytest.raises(CorruptCacheError, match="shard 3"), make(shards) as ahead:
        ahead.reach(0)


def test_leaving_early_breaks_a_check_off() -> None:
    shards = FakeShards()
    shards.unchecked, shards.checks_take_s = {3}, 60.0
    began, threads = time.monotonic(), threading.active_count()
    with pytest.raises(KeyboardInterrupt), make(shards) as ahead:
        ahead.reach(0)
        raise KeyboardInterrupt
    assert time.monotonic() - began < 10
    assert threading.active_count() == threads
