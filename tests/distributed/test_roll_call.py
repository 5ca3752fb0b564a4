import os
import socket
import threading
import time

import torch.distributed as dist

from kdcache.distributed.env import WorkerEnv
from kdcache.distributed.roll_call import RollCall


def calls(store: dist.Store, world_size: int) -> list[RollCall]:
    return [RollCall(store, WorkerEnv(rank, world_size, rank, "job")) for rank in range(world_size)]


def missing(present: list[RollCall], timeout_s: float) -> list[list[int]]:
    found: list[list[int]] = [[] for _ in present]

    def ask(number: int) -> None:
        found[number] = present[number].missing(timeout_s)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(len(present))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def test_the_ranks_that_do_not_report_are_named() -> None:
    first, _, third, _ = every = calls(dist.HashStore(), 4)
    assert missing([first, third], 0.5) == [[1, 3], [1, 3]]
    assert every[0].place(3) == f"process {os.getpid()} on {socket.gethostname()}"


def test_nobody_waits_where_all_report() -> None:
    began = time.monotonic()
    assert missing(calls(dist.HashStore(), 3), 60) == [[], [], []]
    assert time.monotonic() - began < 30


class Gone(dist.HashStore):
    """A store whose process ends after so many questions."""

    def __init__(self, left: int) -> None:
        super().__init__()
        self.left = left

    def check(self, keys: list[str]) -> bool:
        self.left -= 1
        if self.left < 0:
            raise dist.DistNetworkError("Connection reset by peer")
        return super().check(keys)


def test_a_store_that_does_not_answer_was_rank_0() -> None:
    assert RollCall(Gone(0), WorkerEnv(2, 3, 2, "job")).missing(0.5) == [0]
    assert RollCall(Gone(0), WorkerEnv(2, 3, 2, "job")).place(0) == ""


def test_rank_0_that_leaves_after_its_report_is_not_named() -> None:
    store = Gone(2)
    store.set("left/0", "")
    assert RollCall(store, WorkerEnv(2, 3, 2, "job")).missing(5) == [1]
