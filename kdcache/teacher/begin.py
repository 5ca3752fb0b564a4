"""The beginning of a pass: the images, the teacher, the plan of both, and the right to write it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from kdcache.cache.base import BaseFingerprint, PlannedShard, read_base
from kdcache.cache.extraction import Extraction, ShardTask
from kdcache.cache.group import GroupFingerprint
from kdcache.cache.paths import safe_name
from kdcache.cache.places import reading_paths, writing_paths
from kdcache.distributed.env import WorkerEnv
from kdcache.distributed.process_group import choose_device
from kdcache.durable import make_folder
from kdcache.images import Source, open_again, open_source
from kdcache.models import TimmModel, resolve_name
from kdcache.models.names import is_elsewhere
from kdcache.teacher.auto_codec import CodecChooser
from kdcache.teacher.batches import TaskImages
from kdcache.teacher.config import ExtractConfig
from kdcache.teacher.estimate import PassEstimate, estimate_pass
from kdcache.teacher.images_of import committed_images, planned_images, replayed_images
from kdcache.teacher.model import Teacher
from kdcache.teacher.out_folder import naming_images, refuse_another_base, refuse_other_kinds
from kdcache.teacher.plan import base_fingerprint, group_fingerprints, plan_recipe
from kdcache.teacher.reading import ImageReader
from kdcache.teacher.replaying import ReplayReader
from kdcache.teacher.source_plan import SourcePlan, plan_source

OnSource = Callable[[Source, PassEstimate | None], None]


@dataclass(frozen=True)
class BegunPass:
    """A pass that one process has begun.

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


def begin(config: ExtractConfig, env: WorkerEnv, on_source: OnSource | None) -> BegunPass:
    """Load what a pass needs and take the right to write; the extraction is the caller's to close.

    Args:
        config: What to do.
        env: The process.
        on_source: As `extract` takes it.

    Raises: any KdcacheError.
    """
    config = _resolved(config)
    return _begin_adding(config, env) if config.add else _begin_new(config, env, on_source)


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


def _begin_new(config: ExtractConfig, env: WorkerEnv, on_source: OnSource | None) -> BegunPass:
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

    return BegunPass(extraction, teacher, images_of, extraction.planned(), plan)


def _begin_adding(config: ExtractConfig, env: WorkerEnv) -> BegunPass:
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
    return BegunPass(extraction, teacher, lambda task: replayed_images(reader, task), shards, None)


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
