"""Is there room? Column shards have a known size to the byte, so this is arithmetic."""

import shutil

from kdcache.cache.job import CacheJob, PlannedShard
from kdcache.cache.manifest import Fingerprint
from kdcache.errors import DiskFullError
from kdcache.teacher.plan import SourcePlan

# Header and padding of the image and of its record, and the record itself.
_OVERHEAD_PER_IMAGE_BYTES = 3072
# Index and ledger: checksums, sums, moments.
_INDEX_SHARE = 0.03


def check_space(job: CacheJob, fingerprint: Fingerprint, plan: SourcePlan, owed: list[PlannedShard]) -> None:
    """Refuse to start what the disk cannot hold.

    Raises: DiskFullError with what is needed and what is free.
    """
    needed = estimate_bytes(fingerprint, plan, owed)
    free = shutil.disk_usage(job.paths.root).free
    if needed > free:
        raise DiskFullError(
            f"{job.paths.root}: {needed / 1e9:.2f} GB are still to be written, {free / 1e9:.2f} GB are free. Nothing "
            "was changed: make room, choose a smaller codec (int8), fewer --views or another disk; --no-space-check "
            "starts all the same"
        )


def estimate_bytes(fingerprint: Fingerprint, plan: SourcePlan, owed: list[PlannedShard]) -> int:
    """Bytes that some shards of a plan will take."""
    num_images = sum(shard.num_samples for shard in owed)
    columns = sum(column.stride_bytes for column in fingerprint.columns) * num_images * fingerprint.views.num_views
    images = 0
    if fingerprint.images == "embed":
        numbers = (number for shard in owed for number in range(shard.first, shard.first + shard.num_samples))
        images = sum(plan.source.size_bytes(plan.positions[number]) for number in numbers)
    return int(columns * (1 + _INDEX_SHARE)) + images + num_images * _OVERHEAD_PER_IMAGE_BYTES
