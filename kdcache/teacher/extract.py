"""The teacher pass: every pending shard through reading, the teacher and the writer."""

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace

import numpy as np

from kdcache.cache.base import BaseFingerprint, BaseManifest, PlannedShard, read_base
from kdcache.cache.extraction import Extraction, ShardTask
from kdcache.cache.group import GroupFingerprint, GroupManifest
from kdcache.cache.job import read_ledger
from kdcache.cache.paths import LEDGER, safe_name
from kdcache.cache.places import reading_paths, writing_paths
from kdcache.cache.publishing import here
from kdcache.distributed.env import WorkerEnv, worker_env
from kdcache.distributed.process_group import choose_device
from kdcache.durable import append_line, make_folder
from kdcache.errors import InterruptedRunError
from kdcache.images import Source, open_again, open_source
from kdcache.interrupt import graceful_stop
from kdcache.models import TimmModel, resolve_name
from kdcache.models.names import is_elsewhere
from kdcache.strict_json import dump_json
from kdcache.teacher.agreement import other_classes_text
from kdcache.teacher.auto_codec import CodecChooser
from kdcache.teacher.batches import RecordBatch, TaskImages, plan_batches
from kdcache.teacher.config import ExtractConfig
from kdcache.teacher.estimate import PassEstimate, estimate_pass
from kdcache.teacher.forward import Forward
from kdcache.teacher.images_of import committed_images, planned_images, replayed_images
from kdcache.teacher.model import Teacher
from kdcache.teacher.out_folder import naming_images, refuse_another_base, refuse_other_kinds
from kdcache.teacher.pipeline import Background, StageTimes, WriteStage
from kdcache.teacher.plan import SourcePlan, base_fingerprint, group_fingerprints, plan_recipe, plan_source
from kdcache.teacher.reading import ImageReader
from kdcache.teacher.replaying import ReplayReader
from kdcache.teacher.space import check_space, estimate_bytes
from kdcache.teacher.writing import ShardSink

_BATCHES_AHEAD = 2
_BATCHES_BEHIND = 2


@dataclass(frozen=True)
class Progress:
    """How far this worker is.

    Args:
        num_records: Views written or on their way, of `num_pending`.
        num_bad: Unusable images so far, in the whole cache as far as this worker knows.
        bottleneck: read, compute or write.
    """

    num_records: int
    num_pending: int
    num_bad: int
    bottleneck: str


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


@dataclass(frozen=True)
class _Pass:
    """What one worker does.

    Args:
        extraction: What is written.
        teacher: None where only pixels are.
        images_of: The images of a task.
        shards: All shards of the cache.
        plan: The images, where the base is written too.
    """

    extraction: Extraction
    teacher: Teacher | None
    images_of: Callable[[ShardTask], TaskImages]
    shards: Sequence[PlannedShard]
    plan: SourcePlan | None


def extract(
    config: ExtractConfig,
    *,
    env: WorkerEnv | None = None,
    on_source: Callable[[Source, PassEstimate], None] | None = None,
    on_note: Callable[[str], None] = lambda _: None,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> ExtractReport:
    """Run the teacher over the images and write the cache; running it again resumes where it stopped.

    Under torchrun or srun every worker takes each world_size-th shard; there is no process group, so a worker that dies
    stops no other, and the next run finishes its shards.

    Args:
        config: What to do.
        env: This worker; None reads the environment.
        on_source: Called with the images of a new cache and what the pass will take, before the teacher is loaded; None
            estimates nothing.
        on_note: Called with what the user should know about the teacher's weights and classes.
        on_progress: Called after every batch.

    Raises: any KdcacheError; finished shards are safe after each of them.
    """
    env, config = env or worker_env(), _resolved(config)
    started = _begin_adding(config, env) if config.add else _begin_new(config, env, on_source)
    if started.teacher is not None and started.teacher.note:
        on_note(f"teacher weights: {started.teacher.note}")
    if note := other_classes_text(started.extraction.base.source.num_classes, started.extraction.groups):
        on_note(note)
    try:
        return _run(config, env, started, on_progress)
    finally:
        started.extraction.close()


def _resolved(config: ExtractConfig) -> ExtractConfig:
    """The same pass with the teacher's plain name, whatever it was called."""
    if config.teacher is None or not is_elsewhere(config.teacher):
        return config
    found = resolve_name(config.teacher)
    is_trained = config.teacher_weights == "hub" and found.weights is not None
    return replace(
        config,
        teacher=found.model.name,
        teacher_kwargs={**found.model.kwargs, **config.teacher_kwargs},
        teacher_settings={**found.model.settings, **config.teacher_settings},
        teacher_weights=str(found.weights) if is_trained else config.teacher_weights,
        group=config.group or safe_name(found.title),
    )


def _begin_new(
    config: ExtractConfig, env: WorkerEnv, on_source: Callable[[Source, PassEstimate], None] | None
) -> _Pass:
    assert config.data is not None, "the config checks it"
    refuse_other_kinds(config.out)
    source = open_source(config.data, config.source_rules)
    plan = plan_source(source, config)
    if on_source is not None:
        on_source(source, estimate_pass(config, plan, env))
    # A folder that cannot be written is found before the teacher is loaded.
    make_folder(writing_paths(config.out).job)
    teacher = _teacher(config, env, config.image_size)
    assert teacher is not None, "the config checks it"
    recipe = plan_recipe(config, teacher)
    base = base_fingerprint(config, teacher, plan, recipe)
    with naming_images(config.out, plan):
        refuse_another_base(config, base)
    reader = ImageReader(plan, recipe, base.views, base.shard_samples)
    first = range(min(base.shard_samples, base.source.num_samples))
    groups = group_fingerprints(config, base, teacher, CodecChooser(config, env, teacher, reader, first))
    with naming_images(config.out, plan):
        extraction = _extraction(config, env, base, groups)

    def images_of(task: ShardTask) -> TaskImages:
        return planned_images(reader, task) if task.base else committed_images(extraction.paths, reader, task)

    return _Pass(extraction, teacher, images_of, extraction.planned(), plan)


def _begin_adding(config: ExtractConfig, env: WorkerEnv) -> _Pass:
    manifest, _ = read_base(reading_paths(config.out))
    base = manifest.fingerprint
    source = open_again(config.data, base.source.rules)
    reader = ReplayReader(config.out, source)
    reader.check()
    teacher = _teacher(config, env, base.views.size) if config.teacher is not None else None
    first = range(manifest.shards[0].num_samples)
    choose = None if teacher is None else CodecChooser(config, env, teacher, reader, first)
    groups = group_fingerprints(config, base, teacher, choose)
    extraction = _extraction(config, env, base, groups)
    # Images are counted as they are stored: those in the ledger are not there to be read.
    starts = np.cumsum([0, *(shard.num_samples for shard in manifest.shards)]).tolist()
    shards = [
        PlannedShard(shard.name, first, shard.num_samples)
        for shard, first in zip(manifest.shards, starts, strict=False)
    ]
    return _Pass(extraction, teacher, lambda task: replayed_images(reader, task), shards, None)


def _extraction(
    config: ExtractConfig, env: WorkerEnv, base: BaseFingerprint, groups: dict[str, GroupFingerprint]
) -> Extraction:
    accept = config.accept_versions
    return Extraction(config.out, base, groups, env.job_id, writes_base=not config.add, accept_versions=accept)


def _teacher(config: ExtractConfig, env: WorkerEnv, image_size: int | None) -> Teacher | None:
    if config.teacher is None:
        return None
    return Teacher(
        TimmModel(config.teacher, config.teacher_kwargs, config.teacher_settings),
        config.teacher_weights,
        image_size=image_size,
        seed=config.seed,
        device=choose_device(config.device, env),
        precision=config.precision,
        cpu_threads=config.cpu_threads,
    )


def _run(
    config: ExtractConfig, env: WorkerEnv, started: _Pass, on_progress: Callable[[Progress], None]
) -> ExtractReport:
    extraction, forward = started.extraction, Forward(started.teacher, started.extraction.groups)
    mine = started.shards[env.rank :: env.world_size]
    found = [extraction.task(shard) for shard in mine]
    tasks = [task for task in found if task is not None]
    if config.check_space:
        check_space(extraction, started.plan, tasks)
    if extraction.paths.remote is not None:
        extraction.expected_bytes = {
            task.shard.name: estimate_bytes(extraction, started.plan, [task]) for task in tasks
        }
    sink = ShardSink(extraction, config, num_bad=known_bad(extraction, started.shards, tasks))
    if not config.add:
        sink.refuse_bad()
    num_views = extraction.base.views.num_views
    num_pending = sum(task.shard.num_samples for task in tasks) * num_views
    times, began, num_records = StageTimes(), time.perf_counter(), 0
    writing = WriteStage(behind=_BATCHES_BEHIND, times=times)
    pool = ThreadPoolExecutor(_threads(config), thread_name_prefix="kdcache-decode")
    with graceful_stop() as stop:
        batches = Background(
            plan_batches(extraction, started.images_of, tasks, pool, config=config, stop=stop),
            ahead=_BATCHES_AHEAD,
            times=times,
        )
        try:
            for batch, outputs in forward.run(batches, times):
                if isinstance(batch, RecordBatch):
                    writing.submit(lambda batch=batch, outputs=outputs: sink.add(batch, outputs))
                    num_records += len(batch.names)
                else:
                    writing.submit(lambda end=batch: sink.end(end))
                on_progress(Progress(num_records, num_pending, sink.num_bad, times.bottleneck))
            writing.finish()
        finally:
            batches.stop()
            # A thread that hangs in a decoder would keep a pool that waits from ever telling.
            pool.shutdown(wait=False, cancel_futures=True)
            writing.close()
            sink.discard()
    seconds = time.perf_counter() - began
    _log(extraction, env, num_records, seconds, times)
    if stop:
        raise InterruptedRunError(
            f"stopped by signal {stop.signal_number} after {sink.num_shards} of {len(tasks)} pending shards; all of "
            "them are safe. Run the same command again to resume",
            stop.signal_number or 0,
        )
    finished = extraction.finish(sink.accept)
    base, groups = finished if finished is not None else (None, {})
    return ExtractReport(base, groups, sink.num_shards, len(mine) - len(tasks), num_records, seconds, times)


def known_bad(extraction: Extraction, shards: Sequence[PlannedShard], tasks: Sequence[ShardTask]) -> int:
    """Bad images of all committed shards, whoever wrote them."""
    pending = {task.shard.name for task in tasks if task.base}
    paths = extraction.paths
    finished, num_bad = paths.finished(), 0
    for name in (shard.name for shard in shards if shard.name not in pending and shard.name in finished):
        with here(paths, name, LEDGER) as own:
            num_bad += len(read_ledger(own.shard(LEDGER, name)))
    return num_bad


def _threads(config: ExtractConfig) -> int:
    return config.threads or len(os.sched_getaffinity(0))


def _log(extraction: Extraction, env: WorkerEnv, num_records: int, seconds: float, times: StageTimes) -> None:
    entry = {"time": time.time(), "rank": env.rank, "records": num_records, "seconds": seconds, **asdict(times)}
    append_line(extraction.log_path, dump_json(entry))
