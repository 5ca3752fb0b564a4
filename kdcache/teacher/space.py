"""Is there room? Column shards have a known size to the byte; indexes, records and ledgers are bounded from above."""

import shutil
from collections.abc import Sequence

from kdcache.cache.column_builder import keeps_moments
from kdcache.cache.extraction import Extraction, ShardTask
from kdcache.cache.facts import ColumnFacts
from kdcache.cache.statistics import MAX_SPECTRA_PER_SHARD
from kdcache.errors import DiskFullError, Remedy
from kdcache.teacher.source_plan import SourcePlan

# Headers and padding of an image and of its record, the record itself with one view, and its row in the index.
_PER_IMAGE_BYTES = 2816
# Of each view: integers and hash in the record, and in the index.
_PER_VIEW_BYTES = 448
# Index of a shard of the base as HDF5, its ledger, its entries in the manifest.
_PER_SHARD_BYTES = 48 << 10
# Of a column in a shard: end of the tar, datasets of its index as HDF5, entries in the manifest.
_PER_COLUMN_SHARD_BYTES = 48 << 10
# Bytes a pixel of a JPEG takes: 0.2 to 0.84 for 98 % of photographs at quality 95, 0.49 on average.
_JPEG_BYTES_PER_PIXEL = 0.8
_TAR_HEADER_BYTES = 1024


def check_space(extraction: Extraction, plan: SourcePlan | None, tasks: Sequence[ShardTask]) -> None:
    """Refuse to start what the disk cannot hold.

    Args:
        extraction: What is written.
        plan: The images, where the base is written too.
        tasks: What is pending.

    Raises: DiskFullError with what is needed and what is free.
    """
    remote = extraction.paths.remote
    if remote is not None:
        # Shard by shard: as much as is written at a time must fit.
        largest = max((estimate_bytes(extraction, plan, [task]) for task in tasks), default=0)
        if largest > remote.staging.max_bytes:
            raise DiskFullError(
                f"{remote.staging.root}: a shard takes {largest / 1e9:.2f} GB, this folder may hold "
                f"{remote.staging.max_bytes / 1e9:.2f} GB. Nothing was changed",
                remedy=Remedy.MAKE_ROOM,
            )
        return
    needed = estimate_bytes(extraction, plan, tasks)
    free = shutil.disk_usage(extraction.paths.root).free
    if needed > free:
        raise DiskFullError(
            f"{extraction.paths}: {needed / 1e9:.2f} GB are still to be written, {free / 1e9:.2f} GB are free. "
            "Nothing was changed",
            remedy=Remedy.MAKE_ROOM,
        )


def estimate_bytes(extraction: Extraction, plan: SourcePlan | None, tasks: Sequence[ShardTask]) -> int:
    """Bytes of all files that some tasks will write, rounded up."""
    num_views, total = extraction.base.views.num_views, 0
    for task in tasks:
        for group in task.groups:
            fingerprint = extraction.groups[group]
            records = task.shard.num_samples * num_views
            total += records_bytes(fingerprint.columns, records, 1, fingerprint.statistics)
        if task.base and plan is not None:
            numbers = range(task.shard.first, task.shard.first + task.shard.num_samples)
            embedded = extraction.base.images == "embed"
            total += images_bytes(plan, numbers, 1, num_views=num_views, is_embedded=embedded)
    return total


def records_bytes(columns: Sequence[ColumnFacts], num_records: int, num_shards: int, statistics: str) -> int:
    """Bytes of columns and their indexes.

    Args:
        columns: Of one group.
        num_records: Views in each.
        num_shards: In how many shards.
        statistics: Of the group, ``full`` or ``light``.
    """
    records = num_records * sum(_record_bytes(column) for column in columns)
    return (
        records
        + index_bytes(columns, num_records, num_shards, statistics)
        + len(columns) * num_shards * _PER_COLUMN_SHARD_BYTES
    )


def index_bytes(columns: Sequence[ColumnFacts], num_records: int, num_shards: int, statistics: str) -> int:
    """Bytes of the numbers in the indexes of columns: checksums, means and sums, without the files around them.

    Args:
        columns, num_records, num_shards, statistics: As in `records_bytes`.
    """
    total = 0
    for column in columns:
        channels = column.shape[-1]
        tokens = column.shape[0] if len(column.shape) > 1 else 1
        # Logits keep none: those of 1,000 classes were counted with 16 MB that nobody writes.
        with_moments = keeps_moments(column, statistics)
        sums = 4 * channels + (2 * channels**2 if with_moments else 0)
        spectra = min(num_records, num_shards * MAX_SPECTRA_PER_SHARD) * min(tokens, channels) if with_moments else 0
        total += num_records * (4 * channels + 12) + num_shards * 8 * sums + 4 * spectra
    return total


def images_bytes(
    plan: SourcePlan, numbers: Sequence[int], num_shards: int, *, num_views: int, is_embedded: bool
) -> int:
    """Bytes of the samples of a base, with its indexes.

    Args:
        plan: The images.
        numbers: Which of them.
        num_shards: In how many shards.
        num_views: K.
        is_embedded: Whether the image files are copied.
    """
    files = sum(plan.source.size_bytes(plan.positions[number]) for number in numbers) if is_embedded else 0
    return files + len(numbers) * (_PER_IMAGE_BYTES + num_views * _PER_VIEW_BYTES) + num_shards * _PER_SHARD_BYTES


def _record_bytes(column: ColumnFacts) -> int:
    return column.stride_bytes or int(_JPEG_BYTES_PER_PIXEL * column.shape[0] * column.shape[1]) + _TAR_HEADER_BYTES
