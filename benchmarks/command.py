"""Run command lines of kdcache, each in a process of its own, several at a time."""

import functools
import multiprocessing
import os
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import wait
from pathlib import Path

from kdcache.errors import KdcacheError

_PRELOAD = ["timm", "kdcache.train.loop", "kdcache.teacher.extract", "kdcache.teacher.online"]
# Starting a process asks every other one for its exit code, which can be read once: who ends meanwhile and is joined by
# another thread would seem to end with code 255.
_STARTS_AND_JOINS = threading.Lock()


class CommandRunner:
    """Processes forked from one that has only imported what they need.

    A run's memory and threads are its own, and imports, 11 s of a busy core, are made once and not for every run.
    """

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(_PRELOAD)

    def run(self, words: list[str], log: Path) -> None:
        """Run ``kdcache WORDS`` to its end; as `call`."""
        self.call(functools.partial(_command, words), log)

    def call(self, function: Callable[[], int | None], log: Path) -> None:
        """Call a function in a process of its own.

        Args:
            function: Picklable; a number that it returns is the process's exit code.
            log: Where its output is written.

        Raises: KdcacheError with the end of the log when it fails.
        """
        log.parent.mkdir(parents=True, exist_ok=True)
        process = self._context.Process(target=_logged, args=(function, log))
        with _STARTS_AND_JOINS:
            process.start()
        wait([process.sentinel])
        with _STARTS_AND_JOINS:
            process.join()
        if process.exitcode:
            end = "\n".join(log.read_text().splitlines()[-8:]) if log.is_file() else ""
            raise KdcacheError(f"a run ended with exit code {process.exitcode}; the end of {log}:\n{end}")


def _command(words: list[str]) -> int:
    from kdcache.cli.main import main

    print("kdcache", *words, flush=True)
    return main(words)


def _logged(function: Callable[[], int | None], log: Path) -> None:
    stream = log.open("w")
    os.dup2(stream.fileno(), 1)
    os.dup2(stream.fileno(), 2)
    sys.stdout = sys.stderr = stream
    sys.exit(function())
