"""The pass itself, over a few images: what it takes is measured on what it does, with random weights of the teacher."""

import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from kdcache.cache.cache import Cache, open_cache
from kdcache.cache.paths import JOB
from kdcache.distributed.env import WorkerEnv
from kdcache.teacher.config import ExtractConfig
from kdcache.teacher.extract import ExtractReport, extract

# Random weights lose more to a codec than trained ones, and a few bad images among few are a large fraction.
_LENIENT = {"max_error": 1e9, "max_bad": 1.0, "check_space": False}
_FIRST_IMAGES = 4
# Two whole batches: the first of a pass is slower, and the time of a smaller one is not that of a whole one.
_BATCHES = 2
# Times what was asked for, after which a pass of fewer batches will do.
_PATIENCE = 5.0
# A pass that took this fraction of the time asked for is long enough.
_LONG_ENOUGH = 0.5


@dataclass(frozen=True)
class Rehearsal:
    """One short pass and the cache it made.

    Args:
        cache: The cache.
        report: What the pass did.
        file_bytes: Of all its files.
    """

    cache: Cache
    report: ExtractReport
    file_bytes: int

    @property
    def num_images(self) -> int:
        """Images in the cache."""
        return self.cache.manifest.num_samples

    @property
    def seconds_per_view(self) -> float:
        """Of the pass, with everything it does at once."""
        return self.report.seconds / self.report.num_records


def rehearse(
    config: ExtractConfig, folder: Path, *, most_images: int, seconds: float, on_note: Callable[[str], None]
) -> list[Rehearsal]:
    """Extract a few images, then more, until a pass takes long enough to be measured.

    Args:
        config: The pass that is planned; its folder and weights are not used.
        folder: Where the small caches are made.
        most_images: Images that there are.
        seconds: About how long the last pass shall take.
        on_note: Called before each pass.

    Returns: all passes, the longest last; two or more unless there are too few images.
    Raises: any KdcacheError that the planned pass would raise.
    """
    done: list[Rehearsal] = []
    count = min(_FIRST_IMAGES, most_images)
    while True:
        on_note(f"teacher pass over {count} images")
        done.append(rehearsal_pass(config, folder / f"pass-{count}", count))
        wanted = min(most_images, _enough(config, done[-1], seconds))
        # Two sizes tell a shard's bytes from an image's; what grows by less than half would say nothing new.
        if count == most_images or (len(done) > 1 and wanted < 1.5 * count):
            return done
        count = min(most_images, max(2 * count, wanted))


def _enough(config: ExtractConfig, last: Rehearsal, seconds: float) -> int:
    """Images of a pass that is long enough, by the rate of the last one."""
    rate = 1 / last.seconds_per_view / config.views
    batches = min(_BATCHES * config.batch_size / config.views, _PATIENCE * seconds * rate)
    if last.report.seconds >= _LONG_ENOUGH * seconds:
        return int(batches)
    return int(max(batches, seconds * rate))


def rehearsal_pass(config: ExtractConfig, out: Path, count: int) -> Rehearsal:
    """One pass with random weights.

    Args:
        config: Of the pass; its folder, weights and number of images are not used.
        out: Folder of the small cache.
        count: Images.

    Raises: any KdcacheError that the planned pass would raise.
    """
    small = replace(
        config,
        out=out,
        limit=count,
        per_class=None,
        per_class_seed=None,
        shard_samples=max(config.shard_samples, count),
        teacher_weights="random",
        **_LENIENT,
    )
    report = extract(small, env=WorkerEnv(0, 1, 0, f"plan-{uuid.uuid4().hex}"))
    files = (path for path in out.rglob("*") if path.is_file() and JOB not in path.relative_to(out).parts)
    return Rehearsal(open_cache(out), report, sum(path.stat().st_size for path in files))
