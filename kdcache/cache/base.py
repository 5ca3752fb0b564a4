"""The base of a cache: its images, their keys, labels, views and order, which every column group shares."""

from dataclasses import dataclass
from typing import Literal

from kdcache.cache.facts import Count, Facts, FileFacts, Positive, SourceFacts, ViewFacts
from kdcache.cache.manifest import read_manifest
from kdcache.cache.paths import INDEX, LEDGER, SAMPLES, CachePaths, is_safe_name, shard_name
from kdcache.cache.record import TAR_BLOCK_BYTES
from kdcache.errors import IncompleteCacheError, Remedy

BASE_PARTS = (SAMPLES, LEDGER, INDEX)
MAX_SHARDS = 10**6  # their names have six digits
# Of a sample without its image: a tar header and a block of JSON.
LEAST_SAMPLE_BYTES = 2 * TAR_BLOCK_BYTES


class BaseFingerprint(Facts, frozen=True):
    """Everything that decides the bytes of a base. Two runs may share it only if all of it is equal."""

    format_version: int
    split: str
    order: Literal["shuffle", "source"]
    images: Literal["embed", "reference"]
    shard_samples: Positive
    source: SourceFacts
    views: ViewFacts
    versions: dict[str, str]

    @property
    def num_shards(self) -> int:
        """Units of work."""
        return -(-self.source.num_samples // self.shard_samples)

    def check(self, where: str) -> None:
        """See Facts."""
        if not is_safe_name(self.split) or self.num_shards > MAX_SHARDS:
            raise ValueError(f"{self.num_shards} shards of split {self.split!r} cannot be named")
        if len(self.source.class_names) > self.source.num_classes:
            raise ValueError(f"{len(self.source.class_names)} names of {self.source.num_classes} classes")
        if len(set(self.views.fields)) != len(self.views.fields):
            raise ValueError("views.fields names an integer twice")


class BaseShard(Facts, frozen=True):
    """One finished shard: its files by part (``samples``, ``ledger``, ``index``)."""

    name: str
    num_samples: Count
    num_bad: Count
    files: dict[str, FileFacts]


class BaseManifest(Facts, frozen=True, omit_defaults=True):
    """The manifest of a base. `later_versions` wrote some of its shards besides those of the fingerprint."""

    fingerprint: BaseFingerprint
    shards: list[BaseShard]
    image_modes: dict[str, Count]
    num_rotated: Count
    num_bad: Count
    later_versions: list[dict[str, str]] = []

    def check(self, where: str) -> None:
        """See Facts. What it counts is what was planned, and no more than its files can hold."""
        self.fingerprint.check(where)
        if len(self.shards) != self.fingerprint.num_shards:
            raise ValueError(f"{len(self.shards)} shards, {self.fingerprint.num_shards} were planned")
        for shard, planned in zip(self.shards, planned_shards(self.fingerprint), strict=True):
            if shard.name != planned.name:
                raise ValueError(f"shard {shard.name!r} stands where {planned.name!r} was planned")
            if shard.num_samples + shard.num_bad != planned.num_samples:
                raise ValueError(
                    f"shard {shard.name} has {shard.num_samples} images and {shard.num_bad} bad ones, "
                    f"{planned.num_samples} were planned"
                )
            if set(shard.files) != set(BASE_PARTS):
                raise ValueError(f"shard {shard.name} lists {sorted(shard.files)}")
            if shard.num_samples * LEAST_SAMPLE_BYTES > shard.files[SAMPLES].size_bytes:
                size = shard.files[SAMPLES].size_bytes
                raise ValueError(f"shard {shard.name}: {shard.num_samples} images cannot be in {size} bytes")
        if self.num_bad != sum(shard.num_bad for shard in self.shards):
            raise ValueError(f"num_bad is {self.num_bad}, the shards have others")
        if sum(self.image_modes.values()) != self.num_samples or self.num_rotated > self.num_samples:
            raise ValueError(f"image_modes and num_rotated are not those of {self.num_samples} images")

    @property
    def num_samples(self) -> int:
        """Images that are stored or referred to."""
        return sum(shard.num_samples for shard in self.shards)

    @property
    def num_records(self) -> int:
        """Views of images: records in each column."""
        return self.num_samples * self.fingerprint.views.num_views

    def part_bytes(self, part: str) -> int:
        """Size of one part (samples, index, ledger) over all shards."""
        return sum(shard.files[part].size_bytes for shard in self.shards)


@dataclass(frozen=True)
class PlannedShard:
    """One unit of work.

    Args:
        name: Shard name.
        first: Position of its first image in the cache's order.
        num_samples: Images planned.
    """

    name: str
    first: int
    num_samples: int


def planned_shards(fingerprint: BaseFingerprint) -> list[PlannedShard]:
    """All shards of a base, done or not, in order."""
    total, size = fingerprint.source.num_samples, fingerprint.shard_samples
    return [
        PlannedShard(shard_name(fingerprint.split, number), first, min(size, total - first))
        for number, first in enumerate(range(0, total, size))
    ]


def read_base(paths: CachePaths) -> tuple[BaseManifest, str]:
    """Read and check the manifest of a base.

    Returns: the manifest and its sha256.
    Raises: IncompleteCacheError, CorruptCacheError, CacheMismatchError.
    """
    if not paths.manifest.is_file():
        raise _no_manifest(paths)
    manifest, digest = read_manifest(paths, BaseManifest)
    return manifest, digest


def _no_manifest(paths: CachePaths) -> IncompleteCacheError:
    if not paths.root.is_dir():
        return IncompleteCacheError(f"{paths}: no such folder", remedy=Remedy.EXTRACT, path=str(paths))
    if paths.job.is_dir() or (paths.root / SAMPLES).is_dir():
        return IncompleteCacheError(f"{paths}: the extraction has not finished", remedy=Remedy.FINISH_EXTRACTION)
    return IncompleteCacheError(f"{paths}: not a cache (no manifest.json)", remedy=Remedy.EXTRACT, path=str(paths))
