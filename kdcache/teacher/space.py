"""Is there room? Column shards have a known size to the byte, so this is arithmetic."""

import shutil
from collections.abc import Sequence

from kdcache.cache.extraction import Extraction, ShardTask
from kdcache.cache.facts import ColumnFacts
from kdcache.cache.manifest import fingerprint_bytes
from kdcache.cache.shard import trailer
from kdcache.errors import DiskFullError, Remedy
from kdcache.teacher.plan import SourcePlan

# Header and padding of the image and of its record, and the record itself.
_OVERHEAD_PER_IMAGE_BYTES = 3072
# Index and ledger: checksums, sums, moments.
_INDEX_FRACTION = 0.03
# Bytes a pixel of a JPEG without chroma subsampling takes: 0.25 to 0.8 for photographs at quality 95.
_JPEG_BYTES_PER_PIXEL = 0.8


def check_space(extraction: Extraction, plan: SourcePlan | None, tasks: Sequence[ShardTask]) -> None:
    """Refuse to start what the disk cannot hold.

    Args:
        extraction: What is written.
        plan: The images, where the base is written too.
        tasks: What is pending.

    Raises: DiskFullError with what is needed and what is free.
    """
    needed = estimate_bytes(extraction, plan, tasks)
    free = shutil.disk_usage(extraction.paths.root).free
    if needed > free:
        raise DiskFullError(
            f"{extraction.paths.root}: {needed / 1e9:.2f} GB are still to be written, {free / 1e9:.2f} GB are free. "
            "Nothing was changed",
            remedy=Remedy.MAKE_ROOM,
        )


def estimate_bytes(extraction: Extraction, plan: SourcePlan | None, tasks: Sequence[ShardTask]) -> int:
    """Bytes that some tasks will take: exact for columns of one record size, an estimate for the rest."""
    num_views = extraction.base.views.num_views
    columns = images = num_images = 0
    for task in tasks:
        records = task.shard.num_samples * num_views
        for group in task.groups:
            fingerprint = extraction.groups[group]
            columns += sum(_record_bytes(column) for column in fingerprint.columns) * records
            columns += len(trailer(fingerprint_bytes(fingerprint))) * len(fingerprint.columns)
        if task.base and plan is not None:
            num_images += task.shard.num_samples
            if extraction.base.images == "embed":
                numbers = range(task.shard.first, task.shard.first + task.shard.num_samples)
                images += sum(plan.source.size_bytes(plan.positions[number]) for number in numbers)
    return int(columns * (1 + _INDEX_FRACTION)) + images + num_images * _OVERHEAD_PER_IMAGE_BYTES


def _record_bytes(column: ColumnFacts) -> int:
    return column.stride_bytes or int(_JPEG_BYTES_PER_PIXEL * column.shape[0] * column.shape[1])
