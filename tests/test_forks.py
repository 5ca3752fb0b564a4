import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from kdcache.cancel import CancelToken
from kdcache.forks import renew_after_fork
from kdcache.reading.lru import LRUCache

# A child is waited for so many seconds; those that hung did so for ever.
LIMIT_S = 60
CHILD = """
import os, signal, sys, threading, time
import torch
from kdcache.cache import open_cache
from kdcache.errors import UsageError
from kdcache.stream.config import StreamConfig
from kdcache.stream.dataset import CacheDataset
from kdcache.stream.loader import CacheLoader

torch.set_num_threads(1)
cache = open_cache(sys.argv[1])
columns = [cache.find_column(kind="patch", codec="fp16")]
config = StreamConfig(batch_size=4, window=1, num_threads=2)

def child_ends_well(work):
    pid = os.fork()
    if pid == 0:
        signal.alarm(20)
        try:
            work()
        except BaseException as error:
            print(type(error).__name__, error, file=sys.stderr, flush=True)
            os._exit(3)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0, status

def all_keys(loader):
    return sorted(key for batch in loader for key in batch.labels.tolist())

wanted = all_keys(CacheLoader(cache, columns, config))
for number in range(12):
    # The threads of a pass are opening and filling while the process forks.
    loader = CacheLoader(cache, columns, config)
    batches = iter(loader)
    for _ in range(number % 4 + 1):
        next(batches)
    fresh = {**loader.state_dict(), "epoch": 0, "position": 0}

    def again():
        loader.load_state_dict(fresh)
        assert all_keys(loader) == wanted

    def inherited():
        try:
            next(batches)
        except UsageError as error:
            assert "begin another pass" in str(error)
        else:
            raise AssertionError("no refusal")

    child_ends_well(again)
    child_ends_well(inherited)
    batches.close()
dataset = CacheDataset(cache, columns)
stop = threading.Event()
reading = threading.Thread(target=lambda: [dataset[n % 40] for n in range(10**6) if not stop.is_set()])
reading.start()
for _ in range(6):
    time.sleep(0.05)
    child_ends_well(lambda: [dataset[n] for n in range(40)])
stop.set()
"""


@pytest.mark.slow
def test_an_inherited_stream_is_begun_again_or_refused_and_never_hangs(tiny_root: Path) -> None:
    words = [sys.executable, "-c", CHILD, str(tiny_root)]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=240, check=False)
    assert ended.returncode == 0, ended.stderr


def test_what_a_thread_of_the_parent_was_opening_is_opened_by_the_child() -> None:
    opening, gate = threading.Event(), threading.Event()

    class Value:
        mapped_bytes = 1

    def open_value(number: int, cancel: CancelToken | None) -> Value:
        if threading.current_thread() is not threading.main_thread():
            opening.set()
            gate.wait(LIMIT_S)
        return Value()

    cache = LRUCache(open_value, max_mapped_bytes=None, max_open=3)
    thread = threading.Thread(target=lambda: cache.get(7))
    thread.start()
    assert opening.wait(LIMIT_S)
    with cache._lock:
        pid = os.fork()
    if pid == 0:
        os._exit(0 if cache.get(7).mapped_bytes == 1 else 1)
    gate.set()
    thread.join()
    assert ended_well(pid)


def ended_well(pid: int) -> bool:
    """Whether a child ends with 0 in time."""
    for _ in range(LIMIT_S * 100):
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status) == 0
        threading.Event().wait(0.01)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    return False


@pytest.mark.parametrize("is_alive", [True, False])
def test_only_what_is_alive_is_renewed(is_alive: bool) -> None:
    class Each:
        renewed: list[int] = []

        def renew(self) -> None:
            self.renewed.append(1)

    each = Each()
    renew_after_fork(each)
    if not is_alive:
        del each
    pid = os.fork()
    if pid == 0:
        os._exit(0 if Each.renewed == [1] * is_alive else 1)
    assert ended_well(pid)
    assert Each.renewed == []
