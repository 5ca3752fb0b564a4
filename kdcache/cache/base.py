"""The base of a cache: its images, their keys, labels, views and order, which every column group shares."""

from dataclasses import dataclass

from kdcache.cache.facts import Facts, FileFacts, SourceFacts, ViewFacts
from kdcache.cache.manifest import read_manifest, refuse_names
from kdcache.cache.paths import INDEX, LEDGER, RESERVED_NAMES, SAMPLES, CachePaths, is_safe_name, shard_name
from kdcache.errors import IncompleteCacheError, Remedy

BASE_PARTS = (SAMPLES, LEDGER, INDEX)


class BaseFingerprint(Facts, frozen=True):
    """Everything that decides the bytes of a base. Two runs may share it only if all of it is equal."""

    format_version: int
    split: str
    order: str
    images: str
    shard_samples: int
    source: SourceFacts
    views: ViewFacts
    versions: dict[str, str]


class BaseShard(Facts, frozen=True):
    """One finished shard: its files by part (``samples``, ``ledger``, ``index``)."""

    name: str
    num_samples: int
    num_bad: int
    files: dict[str, FileFacts]


class BaseManifest(Facts, frozen=True):
    """The manifest of a base."""

    fingerprint: BaseFingerprint
    shards: list[BaseShard]
    image_modes: dict[str, int]
    num_rotated: int
    num_bad: int

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
    check_shard_names(paths, [shard.name for shard in manifest.shards])
    for shard in manifest.shards:
        if set(shard.files) != set(BASE_PARTS):
            raise refuse_names(paths, f"shard {shard.name} lists {sorted(shard.files)}")
    return manifest, digest


def check_shard_names(paths: CachePaths, names: list[str]) -> None:
    """Refuse shard names that are not plain path components, or occur twice. Raises: CorruptCacheError."""
    for name in names:
        if not is_safe_name(name) or name in RESERVED_NAMES:
            raise refuse_names(paths, f"{name!r} cannot name a shard")
    if len(set(names)) != len(names):
        raise refuse_names(paths, "a shard is named twice")


def _no_manifest(paths: CachePaths) -> IncompleteCacheError:
    if not paths.root.is_dir():
        return IncompleteCacheError(f"{paths.root}: no such folder", remedy=Remedy.EXTRACT, path=paths.root)
    if paths.job.is_dir() or (paths.root / SAMPLES).is_dir():
        return IncompleteCacheError(f"{paths.root}: the extraction has not finished", remedy=Remedy.FINISH_EXTRACTION)
    return IncompleteCacheError(f"{paths.root}: not a cache (no manifest.json)", remedy=Remedy.EXTRACT, path=paths.root)
