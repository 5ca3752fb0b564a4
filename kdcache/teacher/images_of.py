"""Which images a task consists of, and who reads them."""

from kdcache.cache.extraction import ShardTask
from kdcache.cache.index import read_index
from kdcache.cache.job import read_ledger
from kdcache.cache.paths import INDEX, LEDGER, CachePaths
from kdcache.cache.publishing import here
from kdcache.cache.rebuild_ledgers import is_lost
from kdcache.errors import CacheMismatchError, Remedy
from kdcache.teacher.batches import TaskImages
from kdcache.teacher.reading import ImageReader
from kdcache.teacher.replaying import CommittedReader, ReplayReader


def planned_images(reader: ImageReader, task: ShardTask) -> TaskImages:
    """All images planned for a shard that is written from its images on."""
    return TaskImages(reader, _numbers(task), {})


def committed_images(paths: CachePaths, reader: ImageReader, task: ShardTask) -> TaskImages:
    """The images of a shard of the base that an interrupted run has committed; its groups are still pending.

    Args:
        paths: The base.
        reader: Reads the images of the plan.
        task: The shard.
    """
    name = task.shard.name
    with here(paths, name, INDEX, LEDGER) as own:
        ledger = read_ledger(own.shard(LEDGER, name))
        index = read_index(own.shard(INDEX, name))
    if is_lost(ledger):
        raise CacheMismatchError(
            f"{paths.where(paths.shard(LEDGER, name))}: it was lost, so that nobody knows which of the planned "
            f"images are in shard {name}; groups are added to a finished base all the same",
            remedy=Remedy.ADD_GROUP,
        )
    bad = {each.position: each.reason for each in ledger}
    rows: dict[int, int | None] = {}
    row = 0
    for position in range(task.shard.num_samples):
        rows[position] = None if position in bad else row
        row += position not in bad
    checked = CommittedReader(reader, task.shard.first, index, rows)
    skipped = {task.shard.first + position: reason for position, reason in bad.items()}
    return TaskImages(checked, _numbers(task), skipped)


def replayed_images(reader: ReplayReader, task: ShardTask) -> TaskImages:
    """The images of a shard of a finished base, by their sample numbers."""
    return TaskImages(reader, _numbers(task), {})


def _numbers(task: ShardTask) -> range:
    return range(task.shard.first, task.shard.first + task.shard.num_samples)
