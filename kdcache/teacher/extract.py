"""The teacher pass in one process, or in workers of which each has a fixed part of the shards."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass

from kdcache.cache.base import BaseManifest
from kdcache.cache.group import GroupManifest
from kdcache.distributed.env import WorkerEnv, worker_env
from kdcache.errors import InterruptedRunError
from kdcache.interrupt import graceful_stop
from kdcache.teacher.begin import OnSource
from kdcache.teacher.config import ExtractConfig
from kdcache.teacher.pipeline import StageTimes
from kdcache.teacher.worker import Done, Progress, Worker


@dataclass(frozen=True)
class ExtractReport:
    """What a teacher pass did.

    Args:
        base: The finished base; None while other workers still have shards to do.
        groups: The groups of this pass, by name; empty until they are finished.
        num_shards: Shards this worker wrote.
        num_skipped: Shards that were done before.
        num_records: Views this worker wrote.
        seconds: From the first pending shard to the last.
        times: Where they went.
    """

    base: BaseManifest | None
    groups: dict[str, GroupManifest]
    num_shards: int
    num_skipped: int
    num_records: int
    seconds: float
    times: StageTimes


def extract(
    config: ExtractConfig,
    *,
    env: WorkerEnv | None = None,
    on_source: OnSource | None = None,
    on_note: Callable[[str], None] = lambda _: None,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> ExtractReport:
    """Run the teacher over the images and write the cache; running it again resumes where it stopped.

    Under torchrun or srun every worker takes each world_size-th shard; there is no process group, so a worker that dies
    stops no other, and the next run finishes its shards. `extract_on_ray` gives shards to whoever is free.

    Args:
        config: What to do.
        env: This worker; None reads the environment.
        on_source: Called with the images of a new cache and what the pass will take, before the teacher is loaded; None
            estimates nothing.
        on_note: Called with what the user should know about the teacher's weights and classes.
        on_progress: Called after every batch.

    Raises: any KdcacheError; finished shards are safe after each of them.
    """
    env = env or worker_env()
    with closing(Worker(config, env, on_source=on_source)) as worker:
        for note in worker.notes:
            on_note(note)
        mine = worker.shards[env.rank :: env.world_size]
        tasks = worker.prepare(mine)
        done = Done()
        with graceful_stop() as stop, closing(worker.run(tasks, done, stop=stop)) as steps:
            for progress in steps:
                on_progress(progress)
        worker.note(done)
        if stop:
            raise stopped(stop.signal_number, done.num_shards, len(tasks))
        return report(done, worker.finish(), num_skipped=len(mine) - len(tasks))


def stopped(signal_number: int | None, num_shards: int, num_pending: int) -> InterruptedRunError:
    """The error of a pass that a signal stopped.

    Args:
        signal_number: The signal.
        num_shards: Shards written.
        num_pending: Shards that were pending.
    """
    return InterruptedRunError(
        f"stopped by signal {signal_number} after {num_shards} of {num_pending} pending shards; all of "
        "them are safe. Run the same command again to resume",
        signal_number or 0,
    )


def report(
    done: Done, finished: tuple[BaseManifest, dict[str, GroupManifest]] | None, *, num_skipped: int
) -> ExtractReport:
    """What was done, as a report.

    Args:
        done: By this worker, or by all.
        finished: The manifests; None while some shards are pending.
        num_skipped: Shards that were done before.
    """
    base, groups = finished if finished is not None else (None, {})
    return ExtractReport(base, groups, done.num_shards, num_skipped, done.num_records, done.seconds, done.times)
