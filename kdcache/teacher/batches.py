"""Cutting shards into the teacher's batches: fixed by the shard's content, never by who computes it."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from kdcache.cache.extraction import Extraction, ShardTask
from kdcache.cache.writer import BadSample
from kdcache.errors import KdcacheError
from kdcache.interrupt import StopRequest
from kdcache.teacher.config import ExtractConfig
from kdcache.teacher.quarantine import GIVE_UP_ATTEMPTS, MAX_ATTEMPTS, find_poison
from kdcache.teacher.reading import Reader, ReadImage, read_shard


@dataclass(frozen=True)
class TaskImages:
    """The images of a task.

    Args:
        reader: Reads them.
        numbers: Which ones.
        skipped: Those that the ledger names already, with the reason.
    """

    reader: Reader
    numbers: Sequence[int]
    skipped: dict[int, str]


@dataclass(frozen=True)
class RecordBatch:
    """Views for one forward.

    Args:
        task: Where they belong.
        images: Images whose first view is in this batch.
        names: (key, view) of each row.
        pixels: (B, S, S, 3) uint8.
        jpegs: The same views as JPEG files where views are JPEG, else None.
    """

    task: ShardTask
    images: list[ReadImage]
    names: list[tuple[str, int]]
    pixels: np.ndarray
    jpegs: list[bytes] | None


@dataclass(frozen=True)
class ShardEnd:
    """All batches of a shard have gone by; `bad` are the images it will not hold."""

    task: ShardTask
    bad: list[BadSample]


def plan_batches(
    extraction: Extraction,
    images_of: Callable[[ShardTask], TaskImages],
    tasks: Sequence[ShardTask],
    pool: ThreadPoolExecutor,
    *,
    config: ExtractConfig,
    stop: StopRequest,
) -> Iterator[RecordBatch | ShardEnd]:
    """Batches and ends of the shards in order; no new shard begins once `stop` is set."""
    for task in tasks:
        if stop:
            return
        images = images_of(task)
        quarantined = {**_quarantine(extraction, images, task, config.image_timeout_s), **images.skipped}
        ahead = max(2 * config.batch_size // extraction.base.views.num_views, 8)
        timeout_s = config.image_timeout_s
        read = read_shard(images.reader, images.numbers, quarantined, pool, ahead=ahead, timeout_s=timeout_s)
        bad: list[BadSample] = []
        yield from _cut(task, read, bad, config.batch_size)
        yield ShardEnd(task, bad)


def _cut(
    task: ShardTask, images: Iterator[ReadImage | BadSample], bad: list[BadSample], batch_size: int
) -> Iterator[RecordBatch]:
    fresh: list[ReadImage] = []
    names: list[tuple[str, int]] = []
    pixels: list[np.ndarray] = []
    jpegs: list[bytes] = []
    for image in images:
        if isinstance(image, BadSample):
            bad.append(image)
            continue
        fresh.append(image)
        for view, each in enumerate(image.pixels):
            names.append((image.sample.key, view))
            pixels.append(each)
            jpegs += image.jpegs[view : view + 1]
            if len(names) == batch_size:
                yield RecordBatch(task, fresh, names, np.stack(pixels), jpegs or None)
                fresh, names, pixels, jpegs = [], [], [], []
    if names:
        yield RecordBatch(task, fresh, names, np.stack(pixels), jpegs or None)


def _quarantine(extraction: Extraction, images: TaskImages, task: ShardTask, timeout_s: float) -> dict[int, str]:
    """Images of a shard not to touch; looks for them only when earlier attempts at the shard have died."""
    name = task.shard.name
    attempt = extraction.count_attempt(name)
    if attempt < MAX_ATTEMPTS:
        return {}
    numbers = [number for number in images.numbers if number not in images.skipped]
    poison = find_poison(images.reader.read, numbers, timeout_s=timeout_s)
    if attempt >= GIVE_UP_ATTEMPTS and not poison:
        raise KdcacheError(
            f"shard {name} was begun {attempt - 1} times and never finished, and each of its images can be read: look "
            f"for what kills the process (memory?). To try again, remove {extraction.attempts(name)}"
        )
    return {number: f"quarantined: {reason}" for number, reason in poison.items()}
