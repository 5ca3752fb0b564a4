"""A cache from images and from features that another program made of them."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

import kdcache
from kdcache.cache.extraction import Extraction, ShardTask
from kdcache.cache.facts import IMPORTED
from kdcache.cache.group import GroupFingerprint, GroupManifest
from kdcache.cache.record import Array
from kdcache.convert.features import Features, match_features, open_features
from kdcache.distributed.env import worker_env
from kdcache.errors import InterruptedRunError, UsageError
from kdcache.images import open_source
from kdcache.interrupt import graceful_stop
from kdcache.models import TimmModel
from kdcache.models.taps import num_prefix_tokens
from kdcache.teacher.batches import RecordBatch, TaskImages, plan_batches
from kdcache.teacher.config import AUTO, ExtractConfig
from kdcache.teacher.forward import TeacherOutputs
from kdcache.teacher.images_of import committed_images, planned_images
from kdcache.teacher.model import Teacher
from kdcache.teacher.out_folder import refuse_another_base, refuse_other_kinds
from kdcache.teacher.plan import base_fingerprint, group_fingerprints, plan_recipe
from kdcache.teacher.reading import ImageReader
from kdcache.teacher.source_plan import plan_source
from kdcache.teacher.worker import known_bad
from kdcache.teacher.writing import ShardSink


@dataclass(frozen=True, kw_only=True)
class Import:
    """What is imported.

    Args:
        features: As `open_features` takes it.
        data: The images they were made of; see images.open_source.
        out: The new cache.
        teacher: timm's name of the model that made them: its input and its grid of tokens are recorded. It is not run
            on images.
        tap: What the features are.
        tensor: Which one, where a file holds several.
        codec: How they are stored.
        settings: More of ExtractConfig: teacher_kwargs, labels, max_error, ...
    """

    features: Path
    data: str
    out: Path
    teacher: str
    tap: str = "blocks.-1/patch"
    tensor: str | None = None
    codec: str = "fp16"
    settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.codec == AUTO or ":" in self.tap:
            raise ValueError(
                f"tap {self.tap!r}, codec {self.codec!r}: name the tap alone, and the codec by its own name"
            )

    def extraction(self) -> ExtractConfig:
        """The pass that would have made this cache. Raises: ValueError."""
        return ExtractConfig(
            out=self.out,
            data=self.data,
            teacher=self.teacher,
            teacher_weights="random",
            device="cpu",
            precision="fp32",
            taps=(f"{self.tap}:{self.codec}",),
            **self.settings,
        )


@dataclass(frozen=True)
class Imported:
    """What an import made.

    Args:
        group: Name of the group.
        manifest: Of it.
        num_shards, num_skipped: Shards that were written, and that were there before.
    """

    group: str
    manifest: GroupManifest
    num_shards: int
    num_skipped: int


def import_features(job: Import, *, on_progress: Callable[[int, int], None] = lambda done, total: None) -> Imported:
    """Write a base of the images, one evaluation view of each, and a group of the features; the same again resumes.

    Whether the features are of these pixels cannot be known: that is what whoever imports them says.

    Args:
        job: What to import.
        on_progress: Called with the views that are done and all that were pending.

    Raises: UsageError for features that are not there, or of another shape than the tap has; any KdcacheError of a
        teacher pass.
    """
    config = job.extraction()
    refuse_other_kinds(job.out)
    features = open_features(job.features)
    source = open_source(job.data, config.source_rules)
    plan = plan_source(source, config)
    keys = match_features(features, [source.images[position].key for position in plan.positions])
    key_of = dict(zip(plan.keys, keys, strict=True))
    teacher = Teacher(
        TimmModel(job.teacher, config.teacher_kwargs),
        "random",
        image_size=config.image_size,
        seed=0,
        device=torch.device("cpu"),
        precision="fp32",
        cpu_threads=config.cpu_threads,
    )
    recipe = plan_recipe(config, teacher)
    base = base_fingerprint(config, teacher, plan, recipe)
    refuse_another_base(config, base)
    [(name, planned)] = group_fingerprints(config, base, teacher).items()
    [column] = planned.columns
    reads = _Reading(
        features, job.tensor, tuple(column.shape), num_prefix_tokens(teacher.model), column.kind, column.tap
    )
    reads(keys[0])
    group = _fingerprint(planned, features.digest(job.tensor))
    extraction = Extraction(job.out, base, {name: group}, worker_env().job_id, writes_base=True)
    reader = ImageReader(plan, recipe, base.views, base.shard_samples)

    def images_of(task: ShardTask) -> TaskImages:
        return planned_images(reader, task) if task.base else committed_images(extraction.paths, reader, task)

    try:
        num_shards = _write(config, extraction, images_of, lambda key: reads(key_of[key]), column.tap, on_progress)
        finished = extraction.finish()
    finally:
        extraction.close()
    assert finished is not None, "every shard was written above"
    return Imported(name, finished[1][name], num_shards, len(extraction.planned()) - num_shards)


@dataclass(frozen=True)
class _Reading:
    """Loads the features of one image in the shape of the tap."""

    features: Features
    tensor: str | None
    shape: tuple[int, ...]
    num_prefix: int
    kind: str
    tap: str

    def __call__(self, key: str) -> Array:
        values = self.features.load(key, self.tensor)
        if values.ndim == len(self.shape) + 1 and len(values) == 1:
            values = values[0]
        found = values.shape
        # All tokens of a block, the class token and its like first.
        if self.kind == "patch" and values.ndim == 2 and len(values) == self.shape[0] + self.num_prefix:
            values = values[self.num_prefix :]
        if values.shape != self.shape:
            raise UsageError(
                f"{self.features.names[key]}: has shape {found}, {self.tap} of this teacher has {self.shape}"
                + (f" (or with {self.num_prefix} tokens in front of them)" if self.kind == "patch" else "")
            )
        return values


def _fingerprint(planned: GroupFingerprint, digest: str) -> GroupFingerprint:
    assert planned.teacher is not None, "it was planned with one"
    facts = msgspec.structs.replace(planned.teacher, weights=IMPORTED, weights_sha256=digest)
    versions = {"kdcache": kdcache.__version__, "numpy": np.__version__}
    return msgspec.structs.replace(planned, teacher=facts, versions=versions)


def _write(
    config: ExtractConfig,
    extraction: Extraction,
    images_of: Callable[[ShardTask], TaskImages],
    load: Callable[[str], Array],
    tap: str,
    on_progress: Callable[[int, int], None],
) -> int:
    """Write the pending shards. Returns: how many."""
    shards = extraction.planned()
    tasks = [task for shard in shards if (task := extraction.task(shard)) is not None]
    sink = ShardSink(extraction, config, num_bad=known_bad(extraction, shards, tasks))
    sink.refuse_bad()
    total, done = sum(task.shard.num_samples for task in tasks), 0
    pool = ThreadPoolExecutor(config.threads or len(os.sched_getaffinity(0)), thread_name_prefix="kdcache-decode")
    with graceful_stop() as stop:
        try:
            for item in plan_batches(extraction, images_of, tasks, pool, config=config, stop=stop):
                if isinstance(item, RecordBatch):
                    values = {tap: np.stack([load(key) for key, _ in item.names])}
                    sink.add(item, TeacherOutputs(values if item.task.groups else {}))
                    done += len(item.names)
                    on_progress(done, total)
                else:
                    sink.end(item)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            sink.discard()
    if stop:
        raise InterruptedRunError(
            f"stopped by signal {stop.signal_number} after {sink.num_shards} of {len(tasks)} pending shards; all of "
            "them are safe. Run the same command again to resume",
            stop.signal_number or 0,
        )
    return len(tasks)
