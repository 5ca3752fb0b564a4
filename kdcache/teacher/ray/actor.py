"""A worker of a teacher pass inside a Ray actor: begins, writes the shards it is given, finishes."""

import os
import socket
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import final

from kdcache.cache.base import BaseManifest
from kdcache.cache.group import GroupManifest
from kdcache.distributed.env import WorkerEnv
from kdcache.errors import KdcacheError, UsageError
from kdcache.teacher.config import ExtractConfig
from kdcache.teacher.reading import HungImageError
from kdcache.teacher.worker import Done, Progress, Worker

# What the command line has words for; anything else is a bug, and shows its traceback.
_WORDED = (KdcacheError, OSError, MemoryError)


@dataclass(frozen=True)
class Ready:
    """An actor has loaded the teacher. Args: what the user should know about it."""

    notes: list[str]


@dataclass(frozen=True)
class Plan:
    """What is to be done.

    Args:
        pending: Views of every pending shard, by the shard's name.
        num_skipped: Shards that are done.
        num_bad: Unusable images in them.
    """

    pending: dict[str, int]
    num_skipped: int
    num_bad: int


@dataclass(frozen=True)
class Wrote:
    """A shard is done.

    Args:
        done: What this actor has written of it; no shard where it was done before.
        num_bad: Unusable images in it.
    """

    done: Done
    num_bad: int


@dataclass(frozen=True)
class Hung:
    """An image does not come back, so that this process must end. Args: which one."""

    reason: str


@dataclass(frozen=True)
class Refused:
    """An error that ends the pass. It travels as a value: Ray would wrap it into one of its own."""

    error: Exception


Event = Ready | Plan | Progress | Wrote | Hung | Refused


@final
class ShardActor:
    """A worker of a pass; its methods are called one at a time.

    Args:
        config: Of the pass.
        job_id: Of the pass.
        folder: Where the driver runs; relative paths are relative to it.
    """

    def __init__(self, config: ExtractConfig, job_id: str, folder: Path) -> None:
        self._config, self._folder = config, folder
        self._env = WorkerEnv(0, 1, 0, job_id)
        self._worker: Worker | None = None

    def begin(self) -> Generator[Event]:
        """Load the teacher and join the pass."""
        try:
            self._enter_folder()
            self._worker = Worker(self._config, self._env)
        except _WORDED as error:
            yield Refused(error)
            return
        yield Ready(self._worker.notes)

    def plan(self) -> Generator[Event]:
        """Find what is pending: one actor reads the index of every shard that is done, for all."""
        worker = self._joined
        try:
            tasks = worker.prepare(worker.shards)
        except _WORDED as error:
            yield Refused(error)
            return
        pending = {task.shard.name: task.shard.num_samples * worker.num_views for task in tasks}
        yield Plan(pending, len(worker.shards) - len(tasks), worker.num_bad)

    def extract(self, name: str, num_bad: int) -> Generator[Event]:
        """Write what is pending of one shard, with progress.

        Args:
            name: The shard.
            num_bad: Unusable images in the whole cache, as far as the driver knows.
        """
        worker = self._joined
        try:
            yield from _extract(worker, name, num_bad)
        except HungImageError as error:
            yield Hung(str(error))
        except _WORDED as error:
            yield Refused(error)

    def finish(self, done: Done, has_lost: bool) -> tuple[BaseManifest, dict[str, GroupManifest]] | Refused | None:
        """Write the manifests.

        Args:
            done: What all actors have written, for the log.
            has_lost: Whether one of them died, and may have left unfinished files.
        """
        worker = self._joined
        try:
            if has_lost:
                worker.remove_leftovers()
            worker.note(done)
            return worker.finish()
        except _WORDED as error:
            return Refused(error)

    def ping(self) -> None:
        """Answer: what is idle is still there."""

    def close(self) -> None:
        """Release the right to write."""
        if self._worker is not None:
            self._worker.close()

    @property
    def _joined(self) -> Worker:
        assert self._worker is not None, "begin() first"
        return self._worker

    def _enter_folder(self) -> None:
        try:
            os.chdir(self._folder)
        except OSError as error:
            raise UsageError(
                f"{socket.gethostname()}: {self._folder} cannot be entered ({error.strerror}); run the pass in "
                "a folder that all machines of the Ray cluster share"
            ) from None


def _extract(worker: Worker, name: str, num_bad: int) -> Generator[Progress | Wrote]:
    [shard] = [each for each in worker.shards if each.name == name]
    task = worker.task(shard)
    if task is None:  # an actor that died had just committed it
        yield Wrote(Done(), worker.bad_in(shard))
        return
    worker.num_bad = num_bad
    done = Done()
    yield from worker.run([task], done)
    yield Wrote(done, worker.num_bad - num_bad)
