"""Asking a fresh teacher again, to see whether the cache still says what the teacher says."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from kdcache.cache.cache import Cache
from kdcache.cache.manifest import ColumnFacts
from kdcache.cache.verify import Fault
from kdcache.errors import CacheMismatchError, UsageError
from kdcache.images import open_source
from kdcache.models import parse_tap
from kdcache.stream.images import ViewReplayer
from kdcache.stream.reader import ShardReader
from kdcache.teacher.model import Teacher

# What another batch size, device or library version may change, by the precision of the forward.
_TOLERANCE = {"fp32": 1e-3, "fp16": 2e-2, "bf16": 5e-2}
_REMEDY = "the cache is not this teacher's: extract again, or run with the versions in the manifest"


@dataclass(frozen=True)
class RerunResult:
    """One record against a fresh forward: the relative error of the decoded values."""

    shard: str
    key: str
    view: int
    column: str
    relative_error: float
    tolerance: float

    def fault(self) -> Fault | None:
        """What is wrong, if anything."""
        if self.relative_error <= self.tolerance:
            return None
        problem = (
            f"view {self.view} differs from a fresh teacher by {self.relative_error:.2g} (allowed {self.tolerance:.2g})"
        )
        return Fault(self.shard, self.column, self.key, problem, _REMEDY)


def rerun_teacher(
    cache: Cache, num_samples: int, *, weights: str | None, data: str | None, device: torch.device
) -> Iterator[RerunResult]:
    """Run the teacher over all views of some evenly spaced samples and compare with the records.

    Args:
        cache: The cache.
        num_samples: How many images.
        weights: As in ExtractConfig; None takes what the manifest says (not possible for a file).
        data: The source, for a cache that only refers to its images.
        device: Where the teacher runs.

    Raises: CacheMismatchError when the weights are not the manifest's, or pixels cannot be replayed.
    """
    fingerprint = cache.manifest.fingerprint
    facts = fingerprint.teacher
    if weights is None and facts.weights == "file":
        raise UsageError("the teacher's weights came from a file; name it with --teacher-weights")
    teacher = Teacher(
        facts.name,
        facts.kwargs,
        weights or facts.weights,
        image_size=fingerprint.views.size,
        seed=fingerprint.views.seed,
        device=device,
        precision=facts.precision,
        cpu_threads=facts.cpu_threads or None,
    )
    if teacher.facts.weights_sha256 != facts.weights_sha256:
        raise CacheMismatchError(
            f"{cache.paths.root}: made with weights {facts.weights_sha256[:12]}…, these are "
            f"{teacher.facts.weights_sha256[:12]}…; name the right ones with --teacher-weights"
        )
    teacher.listen([parse_tap(column.tap) for column in fingerprint.columns])
    reader = ShardReader(cache, fingerprint.columns, check="size")
    replayer = ViewReplayer(cache, reader, open_source(data) if data else None, check_share=1.0)
    total = cache.manifest.num_samples
    count = min(num_samples, total)
    views = range(fingerprint.views.num_views)
    for sample in (number * total // count for number in range(count)):
        shard, row = reader.locate(sample)
        pixels = np.stack(list(replayer.pixels(shard, row, sample, views)))
        said = teacher.run(pixels, mean=fingerprint.views.mean, std=fingerprint.views.std)
        for column in fingerprint.columns:
            for view in views:
                stored = reader.decode_record(shard, row, view, column)
                error = _relative_error(said[column.tap][view], stored, column)
                fidelity = cache.manifest.columns[column.name].fidelity.get("relative_error", 0.0)
                tolerance = _TOLERANCE[facts.precision] + 3 * fidelity
                yield RerunResult(shard.name, shard.index.key(row), view, column.name, error, tolerance)


def _relative_error(fresh: np.ndarray, stored: np.ndarray, column: ColumnFacts) -> float:
    """Error of the stored values; logits are compared as probabilities, which is what they are for."""
    if column.kind == "logits":
        fresh, stored = _softmax(fresh), _softmax(stored)
    norm = float(np.linalg.norm(fresh.astype(np.float64)))
    return float(np.linalg.norm(fresh.astype(np.float64) - stored)) / (norm or 1.0)


def _softmax(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits.astype(np.float64) - logits.max())
    return weights / weights.sum()
