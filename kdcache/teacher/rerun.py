"""Comparing records with a fresh forward of the teacher: does the cache still hold its outputs?"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from kdcache.cache.cache import Cache
from kdcache.cache.column import Column
from kdcache.cache.facts import IMPORTED
from kdcache.cache.group import Group
from kdcache.cache.verify import Fault
from kdcache.errors import CacheMismatchError, ModelError, Remedy, UsageError
from kdcache.images import open_again
from kdcache.models import TimmModel, check_model, parse_tap
from kdcache.models.names import read_settings
from kdcache.reading.reader import ShardReader
from kdcache.stream.images import ViewReplayer
from kdcache.teacher.model import Teacher

# What another batch size, device or library version may change, by the precision of the forward.
_TOLERANCE = {"fp32": 1e-3, "fp16": 2e-2, "bf16": 5e-2}


@dataclass(frozen=True)
class RerunResult:
    """One record against a fresh forward: the relative error of the decoded values."""

    shard: str
    key: str
    view: int
    column: Column
    relative_error: float
    tolerance: float

    def fault(self) -> Fault | None:
        """What is wrong, if anything."""
        if self.relative_error <= self.tolerance:
            return None
        problem = (
            f"view {self.view} differs from a fresh teacher by {self.relative_error:.2g} (allowed {self.tolerance:.2g})"
        )
        return Fault(self.shard, self.column.facts.name, self.key, problem, Remedy.OTHER_TEACHER, self.column.group)


def rerun_teacher(
    cache: Cache, group: Group, num_samples: int, *, weights: str | None, data: str | None, device: torch.device
) -> Iterator[RerunResult]:
    """Run a teacher over all views of some evenly spaced samples and compare with the records of its group.

    Args:
        cache: The cache.
        group: Which teacher.
        num_samples: How many images.
        weights: As in ExtractConfig; None takes what the manifest names (not possible for a file).
        data: The source, for a cache that only refers to its images.
        device: Where the teacher runs.

    Raises: CacheMismatchError when the weights are not the manifest's, or pixels cannot be replayed.
    """
    if group.manifest.fingerprint.teacher is None:
        return
    teacher = teacher_of_group(cache, group, weights=weights, device=device)
    views, facts = cache.manifest.fingerprint.views, teacher.facts
    teacher.set_taps([parse_tap(column.tap) for column in group.columns])
    reader = ShardReader(cache, group.columns, check="size")
    replayer = ViewReplayer(cache, reader, open_again(data, cache.manifest.fingerprint.source.rules), check_share=1.0)
    total = cache.manifest.num_samples
    count = min(num_samples, total)
    for sample in (number * total // count for number in range(count)):
        shard, row = reader.locate(sample)
        pixels = np.stack(list(replayer.pixels(shard, row, sample, range(views.num_views))))
        outputs = teacher.run(pixels)
        for column in group.columns:
            for view in range(views.num_views):
                stored = reader.decode_record(shard, row, view, column)
                error = _relative_error(outputs[column.tap][view], stored, column)
                tolerance = _TOLERANCE[facts.precision] + 3 * (group.manifest.teacher_error(column.facts.name) or 0.0)
                yield RerunResult(shard.name, shard.index.key(row), view, column, error, tolerance)


def teacher_of_group(cache: Cache, group: Group, *, weights: str | None, device: torch.device) -> Teacher:
    """The teacher that wrote a group, built again, with its precision.

    Args:
        cache: The cache.
        group: One with a teacher.
        weights: As in ExtractConfig; None takes what the manifest says (not possible for a file).
        device: Where it runs.

    Raises: UsageError for a file that is not named, CacheMismatchError when the weights are not the manifest's or
        it names a model or arguments that a file may not choose, ModelError.
    """
    views, facts = cache.manifest.fingerprint.views, group.manifest.fingerprint.teacher
    assert facts is not None, "a group of stored pixels has no teacher"
    if weights is None and facts.weights in ("file", IMPORTED):
        where = "from a file" if facts.weights == "file" else "with features that were imported, from who knows where"
        raise UsageError(f"the weights of {facts.name} came {where}", remedy=Remedy.NAME_WEIGHTS)
    try:
        check_model(facts.name, facts.kwargs)
        settings = read_settings(facts.pretrained_cfg, where=facts.name)
    except ModelError as error:
        raise CacheMismatchError(f"{group.paths.manifest}: {error}") from None
    teacher = Teacher(
        TimmModel(facts.name, facts.kwargs, settings),
        weights or facts.weights,
        image_size=views.size,
        seed=views.seed,
        device=device,
        precision=facts.precision,
        cpu_threads=facts.cpu_threads or None,
    )
    if facts.weights != IMPORTED and teacher.facts.weights_sha256 != facts.weights_sha256:
        raise CacheMismatchError(
            f"{group.paths}: made with weights {facts.weights_sha256[:12]}…, these are "
            f"{teacher.facts.weights_sha256[:12]}…",
            remedy=Remedy.NAME_WEIGHTS,
        )
    return teacher


def _relative_error(fresh: np.ndarray, stored: np.ndarray, column: Column) -> float:
    """Error of the stored values; logits are compared as probabilities, which is what they are for."""
    if column.kind == "logits":
        fresh, stored = _softmax(fresh), _softmax(stored)
    norm = float(np.linalg.norm(fresh.astype(np.float64)))
    return float(np.linalg.norm(fresh.astype(np.float64) - stored)) / (norm or 1.0)


def _softmax(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits.astype(np.float64) - logits.max())
    return weights / weights.sum()
