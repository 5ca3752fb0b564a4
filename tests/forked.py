"""Processes with the imports of `kdcache` behind them: forked from one that has done nothing but import.

Start-up of Python, torch and timm takes four seconds of a core; what a test proves of the death, exit code, files and
ranks of a process is the same without. What is proved of start-up, of torchrun or of a shell needs ``sys.executable``.
"""

import multiprocessing
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

# Also of the benchmarks, which fork from the same process.
PRELOAD = ["timm", "kdcache.train.loop", "kdcache.teacher.extract", "kdcache.teacher.online", "kdcache.cli.train"]
_CONTEXT = multiprocessing.get_context("forkserver")


class Forked:
    """A process at work; made like ``subprocess.Popen(stderr=PIPE, text=True)``, and asked like it.

    Args:
        function: Picklable; a number that it returns is the exit code.
        arguments: Its own.
        environment: More variables.
    """

    def __init__(
        self, function: Callable[..., int | None], *arguments: Any, environment: Mapping[str, str] | None = None
    ) -> None:
        handle, name = tempfile.mkstemp(suffix=".log")
        os.close(handle)
        self._log = Path(name)
        words = (function, arguments, {**os.environ, **(environment or {})}, str(Path.cwd()), name)
        self._process = _CONTEXT.Process(target=_run, args=words)
        self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    @property
    def returncode(self) -> int | None:
        """Of an ended process, negative for the signal that ended it."""
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def wait(self, timeout: float = 240) -> int:
        """Exit code. Raises: TimeoutError; the process is killed then."""
        self._process.join(timeout)
        if self.returncode is None:
            self.kill()
            self._process.join()
            raise TimeoutError(f"it did not end in {timeout:g} s: {self.output()}")
        return self.returncode

    def output(self) -> str:
        """What it has written so far, to stdout and stderr."""
        return self._log.read_text()

    def communicate(self, timeout: float = 240) -> str:
        """Wait for its end; what it wrote."""
        self.wait(timeout)
        text = self.output()
        self._log.unlink()
        return text


def command(words: list[str], **environment: str) -> Forked:
    """``kdcache WORDS``."""
    return Forked(_main, words, environment=environment)


def start_ranks(count: int, function: Callable[..., int | None], *arguments: Any) -> None:
    """Run a function in processes that are ranks of one job, as a launcher starts them; all must end well."""
    port = free_port()
    ranks = [Forked(function, *arguments, environment=place(rank, port, count)) for rank in range(count)]
    end = time.monotonic() + 480
    # One that fails leaves the others waiting for it.
    while any(rank.poll() is None for rank in ranks) and not any(rank.poll() for rank in ranks):
        if time.monotonic() > end:
            break
        time.sleep(0.02)
    codes = [rank.poll() for rank in ranks]
    for rank in ranks:
        rank.kill()
    shown = [rank.communicate() for rank in ranks]
    assert codes == [0] * count, shown


def two_ranks_of(words: list[str]) -> None:
    """``kdcache WORDS`` on two ranks."""
    start_ranks(2, _main, words)


def place(rank: int, port: str, world_size: int = 2) -> dict[str, str]:
    """What a launcher puts into the environment of a rank."""
    return {
        "RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "LOCAL_RANK": str(rank),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
    }


def free_port() -> str:
    """Of this machine."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return str(server.getsockname()[1])


def _main(words: list[str]) -> int:
    from kdcache.cli.main import main

    return main(words)


def _run(
    function: Callable[..., int | None], arguments: tuple[Any, ...], environment: dict[str, str], folder: str, log: str
) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    stream = Path(log).open("w", buffering=1)  # noqa: SIM115 - the process ends with it
    os.dup2(stream.fileno(), 1)
    os.dup2(stream.fileno(), 2)
    sys.stdout = sys.stderr = stream
    sys.exit(function(*arguments))
