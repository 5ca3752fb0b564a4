"""A column group: what one teacher wrote of the base's views in one pass, or the pixels of those views."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from kdcache.cache.base import BaseManifest, check_shard_names
from kdcache.cache.column import Column
from kdcache.cache.facts import ColumnFacts, ColumnSummary, Facts, FileFacts, TeacherFacts
from kdcache.cache.manifest import fingerprint_bytes, fingerprint_digest, read_manifest, refuse_names
from kdcache.cache.paths import INDEX, RESERVED_NAMES, CachePaths, is_safe_name
from kdcache.errors import CacheMismatchError, Remedy


class GroupFingerprint(Facts, frozen=True):
    """Everything that decides the bytes of a group. `base` is the digest of the base's fingerprint.

    A group of stored pixels has no teacher.
    """

    format_version: int
    base: str
    teacher: TeacherFacts | None
    batch_size: int
    statistics: str
    columns: list[ColumnFacts]
    versions: dict[str, str]

    def column(self, name: str) -> ColumnFacts:
        """The column of this name (it must exist)."""
        return next(column for column in self.columns if column.name == name)


class GroupShard(Facts, frozen=True):
    """One finished shard: its files by part (the columns and ``index``)."""

    name: str
    files: dict[str, FileFacts]


class GroupManifest(Facts, frozen=True):
    """The manifest of a group. `base` is the sha256 of the manifest of the base that it belongs to."""

    fingerprint: GroupFingerprint
    base: str
    shards: list[GroupShard]
    columns: dict[str, ColumnSummary]

    def part_bytes(self, part: str) -> int:
        """Size of one part (a column, or index) over all shards."""
        return sum(shard.files[part].size_bytes for shard in self.shards)


@dataclass(frozen=True)
class Group:
    """A finished column group.

    Args:
        name: Of its folder.
        paths: Where it lies.
        manifest: What it holds.
        digest: sha256 of the manifest.
    """

    name: str
    paths: CachePaths
    manifest: GroupManifest
    digest: str

    @cached_property
    def columns(self) -> list[Column]:
        """Its columns, in the order of the manifest."""
        return [Column(self.name, facts) for facts in self.manifest.fingerprint.columns]

    @cached_property
    def meta(self) -> bytes:
        """The fingerprint as its column tars carry it."""
        return fingerprint_bytes(self.manifest.fingerprint)

    @cached_property
    def plan(self) -> str:
        """Digest of the fingerprint, as the indexes of its shards carry it."""
        return fingerprint_digest(self.manifest.fingerprint)


def read_group(paths: CachePaths, base: BaseManifest, base_digest: str) -> tuple[GroupManifest, str]:
    """Read and check the manifest of a group.

    Args:
        paths: The group's.
        base, base_digest: The base that it lies in.

    Returns: the manifest and its sha256.
    Raises: IncompleteCacheError, CorruptCacheError, CacheMismatchError when it was made for another base.
    """
    manifest, digest = read_manifest(paths, GroupManifest)
    check_column_names(paths, manifest.fingerprint.columns)
    names = [shard.name for shard in manifest.shards]
    check_shard_names(paths, names)
    parts = {INDEX, *(column.name for column in manifest.fingerprint.columns)}
    for shard in manifest.shards:
        if set(shard.files) != parts:
            raise refuse_names(paths, f"shard {shard.name} lists {sorted(shard.files)}")
    if manifest.base != base_digest or names != [shard.name for shard in base.shards]:
        raise CacheMismatchError(
            f"{paths.root}: made for the base {manifest.base[:12]}…, the one beside it is {base_digest[:12]}…",
            remedy=Remedy.RESTORE_BASE_OR_DELETE_GROUP,
            group=paths.root.name,
        )
    return manifest, digest


def check_column_names(paths: CachePaths, columns: Sequence[ColumnFacts]) -> None:
    """Refuse column names that are not plain path components, or occur twice. Raises: CorruptCacheError."""
    names = [column.name for column in columns]
    for name in names:
        if not is_safe_name(name) or name in RESERVED_NAMES:
            raise refuse_names(paths, f"{name!r} cannot name a column")
    if len(set(names)) != len(names):
        raise refuse_names(paths, "a column is named twice")
