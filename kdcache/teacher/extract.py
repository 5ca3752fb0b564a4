"""The teacher pass: every owed shard through reading, the teacher and the writer."""

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

from kdcache.cache.job import CacheJob, read_ledger
from kdcache.cache.manifest import Fingerprint, Manifest
from kdcache.distributed.env import WorkerEnv, worker_env
from kdcache.distributed.process_group import choose_device
from kdcache.durable import append_line
from kdcache.errors import InterruptedRunError
from kdcache.images import open_source
from kdcache.interrupt import graceful_stop
from kdcache.strict_json import dump_json
from kdcache.teacher.batches import RecordBatch, plan_batches
from kdcache.teacher.config import ExtractConfig
from kdcache.teacher.model import Teacher
from kdcache.teacher.pipeline import Background, StageTimes, WriteStage
from kdcache.teacher.plan import make_fingerprint, plan_columns, plan_recipe, plan_source
from kdcache.teacher.reading import ImageReader
from kdcache.teacher.space import check_space
from kdcache.teacher.writing import ShardSink

_BATCHES_AHEAD = 2
_BATCHES_BEHIND = 2


@dataclass(frozen=True)
class Progress:
    """How far this worker is.

    Args:
        num_records: Views written or on their way, of `num_owed`.
        num_bad: Unusable images so far, in the whole cache as far as this worker knows.
        bottleneck: read, compute or write.
    """

    num_records: int
    num_owed: int
    num_bad: int
    bottleneck: str


@dataclass(frozen=True)
class ExtractReport:
    """What a teacher pass did.

    Args:
        manifest: The finished cache; None while other workers still owe shards.
        num_shards: Shards this worker wrote.
        num_skipped: Shards that were done before.
        num_records: Views this worker wrote.
        seconds: From the first owed shard to the last.
        times: Where they went.
    """

    manifest: Manifest | None
    num_shards: int
    num_skipped: int
    num_records: int
    seconds: float
    times: StageTimes


def extract(
    config: ExtractConfig, *, env: WorkerEnv | None = None, on_progress: Callable[[Progress], None] = lambda _: None
) -> ExtractReport:
    """Run the teacher over the images and write the cache; running it again goes on where it stopped.

    Under torchrun or srun every worker takes each world_size-th shard; there is no process group, so a worker that dies
    takes nobody with it, and the next run finishes its shards.

    Args:
        config: What to do.
        env: This worker; None reads the environment.
        on_progress: Called after every batch.

    Raises: any KdcacheError; finished shards are safe after each of them.
    """
    env = env or worker_env()
    source = open_source(config.data)
    job = CacheJob(config.out, env.job_id)
    try:
        device = choose_device(config.device, env)
        teacher = Teacher(
            config.teacher,
            config.teacher_kwargs,
            config.teacher_weights,
            image_size=config.image_size,
            seed=config.seed,
            device=device,
            precision=config.precision,
            cpu_threads=config.cpu_threads,
        )
        recipe = plan_recipe(config, teacher)
        plan = plan_source(source, config)
        fingerprint = make_fingerprint(config, teacher, plan, recipe, plan_columns(config, teacher))
        job.adopt(fingerprint)
        reader = ImageReader(plan, recipe, fingerprint.views)
        return _run(config, env, job, fingerprint, teacher, reader, on_progress)
    finally:
        job.close()


def _run(
    config: ExtractConfig,
    env: WorkerEnv,
    job: CacheJob,
    fingerprint: Fingerprint,
    teacher: Teacher,
    reader: ImageReader,
    on_progress: Callable[[Progress], None],
) -> ExtractReport:
    mine = job.planned_shards()[env.rank :: env.world_size]
    owed = [shard for shard in mine if not job.is_done(shard.name)]
    if config.check_space:
        check_space(job, fingerprint, reader.plan, owed)
    done_bad = sum(len(read_ledger(job.paths, shard.name)[0]) for shard in mine if shard not in owed)
    sink = ShardSink(job, config, fingerprint, num_bad=done_bad)
    num_owed = sum(shard.num_samples for shard in owed) * fingerprint.views.num_views
    times, started, num_records = StageTimes(), time.perf_counter(), 0
    writing = WriteStage(behind=_BATCHES_BEHIND, times=times)
    with graceful_stop() as stop, ThreadPoolExecutor(_threads(config), thread_name_prefix="kdcache-decode") as pool:
        batches = Background(
            plan_batches(job, reader, owed, pool, config=config, stop=stop), ahead=_BATCHES_AHEAD, times=times
        )
        try:
            for batch in batches:
                if isinstance(batch, RecordBatch):
                    asked = time.perf_counter()
                    said = teacher.run(batch.pixels, mean=fingerprint.views.mean, std=fingerprint.views.std)
                    times.compute_s += time.perf_counter() - asked
                    writing.submit(lambda batch=batch, said=said: sink.add(batch, said))
                    num_records += len(batch.names)
                else:
                    writing.submit(lambda end=batch: sink.end(end))
                on_progress(Progress(num_records, num_owed, sink.num_bad, times.bottleneck))
            writing.finish()
        finally:
            batches.stop()
            writing.close()
            sink.discard()
    seconds = time.perf_counter() - started
    _log(job, env, num_records, seconds, times)
    if stop:
        raise InterruptedRunError(
            f"stopped by signal {stop.signal_number} after {sink.num_shards} of {len(owed)} owed shards; all of them "
            "are "
            "safe. Run the same command again to go on",
            stop.signal_number or 0,
        )
    manifest = job.finish()
    if manifest is not None:
        sink.refuse_bad(manifest.num_bad)
    return ExtractReport(manifest, sink.num_shards, len(mine) - len(owed), num_records, seconds, times)


def _threads(config: ExtractConfig) -> int:
    return config.threads or len(os.sched_getaffinity(0))


def _log(job: CacheJob, env: WorkerEnv, num_records: int, seconds: float, times: StageTimes) -> None:
    entry = {"time": time.time(), "rank": env.rank, "records": num_records, "seconds": seconds, **asdict(times)}
    append_line(job.paths.job / "runs.jsonl", dump_json(entry))
