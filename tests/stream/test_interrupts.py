"""Ctrl-C while a loader works: it ends, whenever it comes, and leaves nothing behind."""

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest


def wait_until_gone(group: int, limit_s: float = 60.0) -> None:
    """Until no process of a group is left; who has ended stays in it until somebody collects it."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    pytest.fail(f"processes of group {group} are alive {limit_s:g} s after their parent ended")


SCRIPT = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # some runners ignore it, and children inherit that
from kdcache.cache import open_cache
from kdcache.stream.dataset import CacheIterable
from kdcache.stream.loader import CacheLoader
from kdcache.stream.config import StreamConfig
from torch.utils.data import DataLoader
cache = open_cache(sys.argv[1])
columns = cache.columns
config = StreamConfig(batch_size=4, num_threads=2, check=sys.argv[3])
workers, wanted = int(sys.argv[2]), int(sys.argv[4])
if workers:
    # They live on: Python drops an interrupt that arrives while it forks ("Exception ignored in ... _releaseLock").
    dataset = CacheIterable(cache, columns, config)
    loader = DataLoader(dataset, batch_size=None, num_workers=workers, persistent_workers=True)
else:
    loader = CacheLoader(cache, columns, config)
if not wanted:
    print("ready", flush=True)
while True:
    for batch in loader:
        wanted -= 1
        if wanted == 0:
            print("ready", flush=True)
"""


@pytest.mark.parametrize(("workers", "check", "num_batches"), [(0, "full", 0), (0, "background", 12), (2, "full", 3)])
@pytest.mark.slow
def test_ctrl_c_ends_the_process(tiny_root: Path, workers: int, check: str, num_batches: int) -> None:
    """Before the first batch or amid the stream, it ends with KeyboardInterrupt and leaves no child behind."""
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(SCRIPT), tiny_root, str(workers), check, str(num_batches)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "ready\n"
            os.killpg(process.pid, signal.SIGINT)
            _, errors = process.communicate(timeout=120)
            assert process.returncode in (1, 130, -signal.SIGINT)
            assert "KeyboardInterrupt" in errors
            wait_until_gone(process.pid)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


FIRST_PASS = """
import sys, threading
from kdcache.cache import open_cache
from kdcache.stream.config import StreamConfig
from kdcache.stream.loader import CacheLoader

class Watch:
    def find_spec(self, name, path=None, target=None):
        if threading.current_thread() is threading.main_thread():
            print(name)

cache = open_cache(sys.argv[1])
loader = CacheLoader(cache, cache.columns, StreamConfig(batch_size=4, num_threads=2))
sys.meta_path.insert(0, Watch())
for _ in loader:
    pass
print("done")
"""


def test_the_first_pass_imports_nothing_where_ctrl_c_arrives(tiny_root: Path) -> None:
    """The import of a compiled module may drop an interrupt, and the stream would go on for ever."""
    found = subprocess.run([sys.executable, "-c", FIRST_PASS, tiny_root], capture_output=True, text=True, check=True)
    assert found.stdout == "done\n"


INTERRUPTED = """
import faulthandler, random, signal, sys, threading, time
from kdcache.cache import open_cache
from kdcache.stream.config import StreamConfig
from kdcache.stream.loader import CacheLoader

def interrupt(*_):
    raise KeyboardInterrupt

signal.signal(signal.SIGALRM, interrupt)
cache, chance = open_cache(sys.argv[1]), random.Random(0)
config = StreamConfig(batch_size=4, num_threads=2, check="background")
list(CacheLoader(cache, cache.columns, config))  # an import that is still to be done swallows an interrupt
for _ in range(100):
    faulthandler.dump_traceback_later(60, exit=True)
    loader = CacheLoader(cache, cache.columns, config)
    try:
        signal.setitimer(signal.ITIMER_REAL, chance.uniform(0.001, 0.02))
        while True:
            for _ in loader:
                pass
    except KeyboardInterrupt:
        pass
    except RuntimeError as error:
        # Python's own, where Thread.start is interrupted amid its wait for the thread.
        if not isinstance(error.__context__, KeyboardInterrupt):
            raise
    while any(each.is_alive() for each in threading.enumerate() if each is not threading.main_thread()):
        time.sleep(0.001)
print("ended")
"""


@pytest.mark.slow
def test_a_stream_can_be_interrupted_anywhere(tiny_root: Path) -> None:
    """Before 2026-11-27 the main thread kept a lock of the stream's in one of about 25 such interruptions, and hung."""
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, tiny_root], capture_output=True, text=True, timeout=300, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "ended\n", "")
