"""A column group: what one teacher wrote of the base's views in one pass, or the pixels of those views."""

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Literal

import msgspec

from kdcache.cache.base import BaseManifest
from kdcache.cache.column import Column
from kdcache.cache.facts import ColumnFacts, ColumnSummary, ConvertedFacts, Facts, FileFacts, Positive, TeacherFacts
from kdcache.cache.manifest import fingerprint_bytes, fingerprint_digest, read_manifest, refuse
from kdcache.cache.paths import INDEX, RESERVED_NAMES, CachePaths, is_safe_name
from kdcache.cache.shard import trailer
from kdcache.errors import CacheMismatchError, Remedy

_LAST_BLOCKS = re.compile(r"blocks\.-(\d+)/(\w+)")


class GroupFingerprint(Facts, frozen=True, omit_defaults=True):
    """Everything that decides the bytes of a group. `base` is the digest of the base's fingerprint.

    A group of stored pixels has no teacher. One that was `converted` from another has that one's teacher; what it knows
    of its codecs' errors is relative to the other's decoded values.
    """

    format_version: int
    base: str
    teacher: TeacherFacts | None
    batch_size: Positive
    statistics: Literal["full", "light"]
    columns: Annotated[list[ColumnFacts], msgspec.Meta(min_length=1, max_length=4096)]
    versions: dict[str, str]
    converted: ConvertedFacts | None = None

    def check(self, where: str) -> None:
        """See Facts."""
        names = [column.name for column in self.columns]
        for column in self.columns:
            if not is_safe_name(column.name) or column.name in RESERVED_NAMES:
                raise ValueError(f"{column.name!r} cannot name a column")
            column.check(where)
        if len(set(names)) != len(names):
            raise ValueError("a column is named twice")
        if self.teacher is None and any(column.kind != "pixels" for column in self.columns):
            raise ValueError("columns of a teacher, and no teacher")
        if self.converted is not None and set(self.converted.columns) != set(names):
            raise ValueError(f"converted from {sorted(self.converted.columns)}, the columns are {sorted(names)}")

    def column(self, name: str) -> ColumnFacts:
        """The column of this name (it must exist)."""
        return next(column for column in self.columns if column.name == name)


class GroupShard(Facts, frozen=True):
    """One finished shard: its files by part (the columns and ``index``)."""

    name: str
    files: dict[str, FileFacts]


class GroupManifest(Facts, frozen=True, omit_defaults=True):
    """The manifest of a group. `base` is the sha256 of the manifest of the base that it belongs to.

    `later_versions` wrote some of its shards besides those of the fingerprint.
    """

    fingerprint: GroupFingerprint
    base: str
    shards: list[GroupShard]
    columns: dict[str, ColumnSummary]
    later_versions: list[dict[str, str]] = []

    def check(self, where: str) -> None:
        """See Facts."""
        self.fingerprint.check(where)
        parts = {INDEX, *(column.name for column in self.fingerprint.columns)}
        for shard in self.shards:
            if set(shard.files) != parts:
                raise ValueError(f"shard {shard.name} lists {sorted(shard.files)}")
        if unknown := set(self.columns) - parts:
            raise ValueError(f"figures of columns that there are not: {sorted(unknown)}")

    def teacher_error(self, column: str) -> float | None:
        """Relative error of a column's values to the teacher's, at most; None where nobody knows.

        That of its codec, and of the codec of the column that it was converted from.
        """
        error = self.columns[column].fidelity.get("relative_error")
        if error is None or self.fingerprint.converted is None:
            return error
        before = self.fingerprint.converted.columns[column].relative_error
        return None if before is None else error + before

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

    def resolved(self, tap: str) -> str:
        """A tap with its block counted from 0, as columns name theirs."""
        teacher, match = self.manifest.fingerprint.teacher, _LAST_BLOCKS.fullmatch(tap)
        if match is None or teacher is None:
            return tap
        return f"blocks.{teacher.num_blocks - int(match[1])}/{match[2]}"

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
    names = [shard.name for shard in manifest.shards]
    if manifest.base != base_digest:
        raise CacheMismatchError(
            f"{paths}: made for the base {manifest.base[:12]}…, the one beside it is {base_digest[:12]}…",
            remedy=Remedy.RESTORE_BASE_OR_DELETE_GROUP,
            group=paths.root.name,
        )
    if names != [shard.name for shard in base.shards]:
        raise refuse(paths, f"{len(names)} shards that are not, in order, the {len(base.shards)} of the base")
    _check_sizes(paths, manifest, base)
    return manifest, digest


def _check_sizes(paths: CachePaths, manifest: GroupManifest, base: BaseManifest) -> None:
    """Compare the size that the manifest gives each column with what its records take. Raises: CorruptCacheError."""
    behind = len(trailer(fingerprint_bytes(manifest.fingerprint)))
    for shard, images in zip(manifest.shards, base.shards, strict=True):
        num_records = images.num_samples * base.fingerprint.views.num_views
        for column in manifest.fingerprint.columns:
            found, wanted = shard.files[column.name].size_bytes, num_records * column.stride_bytes + behind
            if column.stride_bytes and found != wanted:
                raise refuse(
                    paths,
                    f"shard {shard.name}: column {column.name} has {found} bytes, {num_records} records take {wanted}",
                )
