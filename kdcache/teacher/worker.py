"""One process of a teacher pass: engines differ in which shards they give it, and in nothing else."""

import os
import time
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import final

from kdcache.cache.base import BaseManifest, PlannedShard
from kdcache.cache.extraction import Extraction, ShardTask
from kdcache.cache.group import GroupManifest
from kdcache.cache.job import read_ledger
from kdcache.cache.paths import LEDGER
from kdcache.cache.publishing import here
from kdcache.distributed.env import WorkerEnv
from kdcache.durable import append_line
from kdcache.interrupt import StopRequest
from kdcache.strict_json import dump_json
from kdcache.teacher.agreement import other_classes_text
from kdcache.teacher.batches import RecordBatch, plan_batches
from kdcache.teacher.begin import OnSource, begin
from kdcache.teacher.config import ExtractConfig
from kdcache.teacher.forward import Forward
from kdcache.teacher.pipeline import Background, StageTimes, WriteStage
from kdcache.teacher.space import check_space, estimate_bytes
from kdcache.teacher.writing import ShardSink

_BATCHES_AHEAD = 2
_BATCHES_BEHIND = 2


@dataclass(frozen=True)
class Progress:
    """How far this worker, or the driver of several, is.

    Args:
        num_records: Views written or on their way, of `num_pending`.
        num_bad: Unusable images so far, in the whole cache as far as this worker knows.
        bottleneck: read, compute or write.
    """

    num_records: int
    num_pending: int
    num_bad: int
    bottleneck: str


@dataclass
class Done:
    """What was written.

    Attributes:
        num_shards: Shards.
        num_records: Views.
        seconds: From the first to the last.
        times: Where they went.
    """

    num_shards: int = 0
    num_records: int = 0
    seconds: float = 0.0
    times: StageTimes = field(default_factory=StageTimes)

    def add(self, other: "Done") -> None:
        """Add what another worker has written meanwhile; seconds are not added."""
        self.num_shards += other.num_shards
        self.num_records += other.num_records
        self.times.add(other.times)


@final
class Worker:
    """A process with its teacher and the right to write, held until `close`.

    An engine calls `prepare` once, `run` for the shards it gives to this worker, and, when all shards of the cache are
    done, `finish` on any one worker.

    Args:
        config: What to do.
        env: This worker; its job_id is that of all workers of the pass.
        on_source: As `extract` takes it.

    Raises: any KdcacheError.

    Attributes:
        shards: All shards of the cache, done or not.
        num_views: K, views of each image.
        notes: What the user should know about the teacher's weights and classes.
    """

    def __init__(self, config: ExtractConfig, env: WorkerEnv, *, on_source: OnSource | None = None) -> None:
        self._config, self._env = config, env
        self._begun = begin(config, env, on_source)
        self._extraction = self._begun.extraction
        teacher = self._begun.teacher
        try:
            self._forward = Forward(teacher, self._extraction.groups)
        except BaseException:
            self.close()
            raise
        self._sink = ShardSink(self._extraction, config, num_bad=0)
        self.shards: Sequence[PlannedShard] = self._begun.shards
        self.num_views = self._extraction.base.views.num_views
        classes = other_classes_text(self._extraction.base.source, self._extraction.groups)
        weights = f"teacher weights: {teacher.note}" if teacher is not None and teacher.note else ""
        self.notes = [note for note in (weights, classes) if note]

    @property
    def num_bad(self) -> int:
        """Bad images in the whole cache, as far as this worker knows; an engine that knows of more sets it."""
        return self._sink.num_bad

    @num_bad.setter
    def num_bad(self, num_bad: int) -> None:
        self._sink.num_bad = num_bad

    def prepare(self, shards: Iterable[PlannedShard]) -> list[ShardTask]:
        """Find what is pending, and refuse what cannot end well.

        Args:
            shards: Those that this worker may be given.

        Raises: DiskFullError, TooManyBadImagesError, CacheMismatchError.
        """
        tasks = [task for task in map(self.task, shards) if task is not None]
        if self._config.check_space:
            check_space(self._extraction, self._begun.plan, tasks)
        self._sink.num_bad = known_bad(self._extraction, self.shards, tasks)
        if not self._config.add:
            self._sink.refuse_bad()
        return tasks

    def task(self, shard: PlannedShard) -> ShardTask | None:
        """The pending part of a shard; None if it is done. Raises: CacheMismatchError."""
        return self._extraction.task(shard)

    def run(self, tasks: Sequence[ShardTask], done: Done, *, stop: StopRequest | None = None) -> Generator[Progress]:
        """Write shards, one after the other; no new one begins once `stop` is set. Yields after every batch.

        Args:
            tasks: What is pending of them.
            done: Filled with what was written.
            stop: None for one that nobody sets.

        Raises: any KdcacheError; finished shards are safe after each of them.
        """
        extraction = self._extraction
        if extraction.paths.remote is not None:
            for task in tasks:
                extraction.expected_bytes[task.shard.name] = estimate_bytes(extraction, self._begun.plan, [task])
        num_pending = sum(task.shard.num_samples for task in tasks) * self.num_views
        before, began = self._sink.num_shards, time.perf_counter()
        writing = WriteStage(behind=_BATCHES_BEHIND, times=done.times)
        pool = ThreadPoolExecutor(self._threads, thread_name_prefix="kdcache-decode")
        # A request that is not set is false.
        stop = StopRequest() if stop is None else stop
        batches = Background(
            plan_batches(extraction, self._begun.images_of, tasks, pool, config=self._config, stop=stop),
            ahead=_BATCHES_AHEAD,
            times=done.times,
        )
        try:
            for batch, outputs in self._forward.run(batches, done.times):
                if isinstance(batch, RecordBatch):
                    writing.submit(lambda batch=batch, outputs=outputs: self._sink.add(batch, outputs))
                    done.num_records += len(batch.names)
                else:
                    writing.submit(lambda end=batch: self._sink.end(end))
                yield Progress(done.num_records, num_pending, self.num_bad, done.times.bottleneck)
            writing.finish()
        finally:
            batches.stop()
            # A thread that hangs in a decoder would keep a pool that waits from ever telling.
            pool.shutdown(wait=False, cancel_futures=True)
            writing.close()
            self._sink.discard()
            done.num_shards, done.seconds = self._sink.num_shards - before, time.perf_counter() - began

    def bad_in(self, shard: PlannedShard) -> int:
        """Bad images of one shard that is done."""
        return known_bad(self._extraction, [shard], [])

    def note(self, done: Done) -> None:
        """Append to the log of the cache what was done, and where the time went."""
        entry = {
            "time": time.time(),
            "rank": self._env.rank,
            "records": done.num_records,
            "seconds": done.seconds,
            **asdict(done.times),
        }
        append_line(self._extraction.log_path, dump_json(entry))

    def finish(self) -> tuple[BaseManifest, dict[str, GroupManifest]] | None:
        """Write the manifests if every shard of the cache is done; None while some are pending.

        Raises: any KdcacheError.
        """
        return self._extraction.finish(self._sink.accept)

    def remove_leftovers(self) -> None:
        """Remove the unfinished files of workers that have died."""
        self._extraction.remove_leftovers()

    def close(self) -> None:
        """Release the right to write."""
        self._extraction.close()

    @property
    def _threads(self) -> int:
        return self._config.threads or len(os.sched_getaffinity(0))


def known_bad(extraction: Extraction, shards: Sequence[PlannedShard], tasks: Sequence[ShardTask]) -> int:
    """Bad images of all committed shards, whoever wrote them."""
    pending = {task.shard.name for task in tasks if task.base}
    paths = extraction.paths
    finished, num_bad = paths.finished(), 0
    for name in (shard.name for shard in shards if shard.name not in pending and shard.name in finished):
        with here(paths, name, LEDGER) as own:
            num_bad += len(read_ledger(own.shard(LEDGER, name)))
    return num_bad
