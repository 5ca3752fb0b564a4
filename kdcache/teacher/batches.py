"""Cutting shards into the teacher's batches: fixed by the shard's content, never by who computes it."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from kdcache.cache.job import CacheJob, PlannedShard
from kdcache.cache.writer import BadSample
from kdcache.errors import KdcacheError
from kdcache.interrupt import StopRequest
from kdcache.teacher.config import ExtractConfig
from kdcache.teacher.quarantine import GIVE_UP_ATTEMPTS, MAX_ATTEMPTS, find_poison
from kdcache.teacher.reading import ImageReader, ReadImage, read_shard


@dataclass(frozen=True)
class RecordBatch:
    """Views for one forward.

    Args:
        shard: Where they belong.
        images: Images whose first view is in this batch.
        names: (key, view) of each row.
        pixels: (B, S, S, 3) uint8.
    """

    shard: PlannedShard
    images: list[ReadImage]
    names: list[tuple[str, int]]
    pixels: np.ndarray


@dataclass(frozen=True)
class ShardEnd:
    """All batches of a shard have gone by; `bad` are the images it will not hold."""

    shard: PlannedShard
    bad: list[BadSample]


def plan_batches(
    job: CacheJob,
    reader: ImageReader,
    shards: list[PlannedShard],
    pool: ThreadPoolExecutor,
    *,
    config: ExtractConfig,
    stop: StopRequest,
) -> Iterator[RecordBatch | ShardEnd]:
    """Batches and ends of the shards in order; no new shard begins once `stop` is set."""
    for shard in shards:
        if stop:
            return
        quarantined = _quarantine(job, reader, shard, config.image_timeout_s)
        ahead = max(2 * config.batch_size // config.views, 8)
        images = read_shard(reader, shard, quarantined, pool, ahead=ahead, timeout_s=config.image_timeout_s)
        bad: list[BadSample] = []
        yield from _cut(shard, images, bad, config.batch_size)
        yield ShardEnd(shard, bad)


def _cut(
    shard: PlannedShard, images: Iterator[ReadImage | BadSample], bad: list[BadSample], batch_size: int
) -> Iterator[RecordBatch]:
    fresh: list[ReadImage] = []
    names: list[tuple[str, int]] = []
    pixels: list[np.ndarray] = []
    for image in images:
        if isinstance(image, BadSample):
            bad.append(image)
            continue
        fresh.append(image)
        for view, each in enumerate(image.pixels):
            names.append((image.sample.key, view))
            pixels.append(each)
            if len(names) == batch_size:
                yield RecordBatch(shard, fresh, names, np.stack(pixels))
                fresh, names, pixels = [], [], []
    if names:
        yield RecordBatch(shard, fresh, names, np.stack(pixels))


def _quarantine(job: CacheJob, reader: ImageReader, shard: PlannedShard, timeout_s: float) -> dict[int, str]:
    """Images of a shard not to touch; looks for them only when earlier attempts at the shard have died."""
    attempt = job.count_attempt(shard.name)
    if attempt < MAX_ATTEMPTS:
        return {}
    numbers = range(shard.first, shard.first + shard.num_samples)
    poison = find_poison(reader.read, numbers, timeout_s=timeout_s)
    if attempt >= GIVE_UP_ATTEMPTS and not poison:
        raise KdcacheError(
            f"shard {shard.name} was begun {attempt - 1} times and never finished, and each of its images can be read: "
            "look for what kills the process (memory?). To try again, remove "
            f"{job.paths.job / 'attempts' / shard.name}.json"
        )
    return poison
