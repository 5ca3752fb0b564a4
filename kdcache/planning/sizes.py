"""Bytes of a cache that is not there, from small ones that are."""

from collections.abc import Sequence
from dataclasses import dataclass

from kdcache.cache.cache import Cache
from kdcache.cache.group import Group
from kdcache.cache.paths import PIXELS
from kdcache.cache.shard import trailer
from kdcache.planning.rehearsal import Rehearsal
from kdcache.teacher.space import index_bytes


@dataclass(frozen=True)
class PlannedBytes:
    """What a cache will take.

    Args:
        columns: The tars of each column by ``group/column``, as the manifest will count them.
        images: The image files that are copied; 0 where the cache refers to them.
        rest: Indexes with their statistics, views, headers, ledgers and manifests.
    """

    columns: dict[str, int]
    images: int
    rest: int

    @property
    def total(self) -> int:
        """All of them."""
        return sum(self.columns.values()) + self.images + self.rest

    @property
    def pixels(self) -> int:
        """Stored pixels among the columns; 0 where there are none."""
        return sum(size for name, size in self.columns.items() if name.startswith(f"{PIXELS}/"))


def plan_bytes(
    rehearsals: Sequence[Rehearsal],
    image_bytes: Sequence[int],
    *,
    num_images: int,
    planned_image_bytes: int,
    shard_samples: int,
) -> PlannedBytes:
    """Bytes of a cache of many images, from caches of few, of one shard each.

    Columns of a fixed record and copied images have a known size, and so have the numbers in the indexes; the
    files around them and the records of views grow with images and shards, at rates fitted to the small caches.

    Args:
        rehearsals: Small caches of the same settings, the largest last.
        image_bytes: For each the bytes of the images that are copied into it.
        num_images: N.
        planned_image_bytes: Bytes of the images that will be copied.
        shard_samples: Images in a shard.
    """
    num_shards = -(-num_images // shard_samples)
    columns = _columns(rehearsals[-1].cache, num_images, num_shards)
    fitted = [
        (
            each.num_images,
            each.file_bytes
            - sum(_columns(each.cache, each.num_images, 1).values())
            - copied
            - _numbers(each.cache, each.num_images, 1),
        )
        for each, copied in zip(rehearsals, image_bytes, strict=True)
    ]
    per_image, per_shard = _line(fitted)
    rest = _numbers(rehearsals[-1].cache, num_images, num_shards) + per_image * num_images + per_shard * num_shards
    return PlannedBytes(columns, planned_image_bytes, round(rest))


def _columns(cache: Cache, num_images: int, num_shards: int) -> dict[str, int]:
    return {
        f"{group.name}/{facts.name}": _column(group, facts.name, cache, num_images, num_shards)
        for group in cache.groups.values()
        for facts in group.manifest.fingerprint.columns
    }


def _column(group: Group, name: str, cache: Cache, num_images: int, num_shards: int) -> int:
    behind, stride = len(trailer(group.meta)), group.manifest.fingerprint.column(name).stride_bytes
    # JPEG files of views have no fixed size: those of the small cache speak for all.
    one = (group.manifest.part_bytes(name) - behind) / cache.manifest.num_records
    return round(num_images * cache.num_views * (stride or one)) + num_shards * behind


def _numbers(cache: Cache, num_images: int, num_shards: int) -> int:
    records = num_images * cache.num_views
    plans = [group.manifest.fingerprint for group in cache.groups.values()]
    return sum(index_bytes(plan.columns, records, num_shards, plan.statistics) for plan in plans)


def _line(points: Sequence[tuple[int, int]]) -> tuple[float, float]:
    """Slope and intercept through the first point and the last; through the origin where there is one only."""
    (first, low), (last, high) = points[0], points[-1]
    if first == last:
        return high / last, 0.0
    slope = (high - low) / (last - first)
    return slope, low - slope * first
