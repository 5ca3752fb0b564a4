"""A finished cache, opened for reading: its base, and the column groups beside it."""

import contextlib
import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import xxhash

from kdcache.cache.base import LEAST_SAMPLE_BYTES, BaseManifest, BaseShard, read_base
from kdcache.cache.column import Column
from kdcache.cache.facts import FileFacts
from kdcache.cache.group import Group, read_group
from kdcache.cache.group_index import GroupIndex, check_group_index, read_group_index
from kdcache.cache.index import ShardIndex, check_index, read_index
from kdcache.cache.manifest import fingerprint_digest
from kdcache.cache.not_held import ambiguous, no_column, not_held
from kdcache.cache.paths import INDEX, PIXELS, SAMPLES, CachePaths
from kdcache.cache.places import reading_paths
from kdcache.cache.shard import StridedShard, member_name
from kdcache.cache.trust import contradictions, read_hashed, refuse_other_plan
from kdcache.errors import CorruptCacheError, KdcacheError, Remedy, TapError
from kdcache.remote import Content, Lease, Location


@dataclass(frozen=True)
class Cache:
    """A cache whose manifests have been read and checked; everything else is checked when first touched.

    Args:
        paths: Where it lies.
        manifest: Of the base.
        digest: sha256 of the base's manifest.
        groups: Finished groups by name.
        unusable: Why other groups cannot be used, by name; they do not stand in the way of these.
    """

    paths: CachePaths
    manifest: BaseManifest
    digest: str
    groups: dict[str, Group]
    unusable: dict[str, KdcacheError]

    @cached_property
    def _plan(self) -> str:
        return fingerprint_digest(self.manifest.fingerprint)

    @property
    def num_views(self) -> int:
        """K, views of each image."""
        return self.manifest.fingerprint.views.num_views

    @cached_property
    def columns(self) -> list[Column]:
        """The teachers' columns of all groups; stored pixels are `pixel_column`."""
        return [column for group in self.groups.values() for column in group.columns if column.kind != "pixels"]

    @cached_property
    def pixel_column(self) -> Column | None:
        """Stored pixels, if there are any."""
        group = self.groups.get(PIXELS)
        return None if group is None else group.columns[0]

    def column(self, name: str) -> Column:
        """The column of this name: ``<group>/<column>``, or ``<column>`` where one group alone has it.

        Raises: UsageError naming the columns there are.
        """
        held = [column for group in self.groups.values() for column in group.columns]
        fitting = [column for column in held if name in (column.name, column.facts.name)]
        if len(fitting) != 1:
            problem = f"{len(fitting)} columns {name!r}" if fitting else f"no column {name!r}"
            raise not_held(self.paths, name, problem, [column.name for column in held])
        return fitting[0]

    def group(self, name: str) -> Group:
        """The group of this name.

        Raises: UsageError naming the groups there are, or the reason why it cannot be used.
        """
        if name in self.unusable:
            raise self.unusable[name]
        if name not in self.groups:
            raise not_held(self.paths, name, f"no group {name!r}", list(self.groups))
        return self.groups[name]

    def identity(self, columns: Sequence[Column]) -> str:
        """What a stream of these columns is a stream of: one digest of the base and of their groups, hex."""
        groups = sorted({column.group for column in columns})
        digests = [self.digest, *(f"{name} {self.groups[name].digest}" for name in groups)]
        return hashlib.sha256("\n".join(digests).encode()).hexdigest()

    def index(self, shard: BaseShard) -> ShardIndex:
        """The index of a shard's images, hashed before it is parsed. Raises: CorruptCacheError."""
        held = self.hold(INDEX, shard)
        path = self.check_size(INDEX, shard)
        index = read_index(path, data=read_hashed(held.path, shard.files[INDEX]))
        refuse_other_plan(path, index.plan, self._plan)
        with contradictions(path):
            check_index(index, shard, self.manifest.fingerprint)
        return index

    def group_index(self, group: Group, shard: BaseShard) -> GroupIndex:
        """The index of a shard of a group, hashed before it is parsed. Raises: CorruptCacheError."""
        part = f"{group.name}/{INDEX}"
        held = self.hold(part, shard)
        path = self.check_size(part, shard)
        index = read_group_index(path, data=read_hashed(held.path, self.file(part, shard)))
        refuse_other_plan(path, index.plan, group.plan)
        with contradictions(path):
            files = self._group_files[group.name][shard.name]
            check_group_index(index, group.manifest.fingerprint, files, shard.num_samples * self.num_views)
        return index

    def strided(self, column: Column, shard: BaseShard) -> StridedShard:
        """A column's shard as a strided array; sizes are checked on access."""
        meta = self.groups[column.group].meta
        return StridedShard(self.path(column.name, shard), column.layout(), shard.num_samples * self.num_views, meta)

    def member_names(self, index: ShardIndex, extension: str = "npy") -> list[str]:
        """Member names of a column in one shard, in order."""
        views = range(self.num_views)
        return [member_name(index.key(row), view, extension) for row in range(len(index)) for view in views]

    def path(self, part: str, shard: BaseShard) -> Path:
        """The file of a shard in a part of the base (``samples``) or of a group (``<group>/<column>``).

        Of a cache on object storage it is there while somebody holds it.
        """
        path = self._own_path(part, shard)
        if self.paths.remote is None:
            return path
        return self.paths.remote.staged(self.paths.object_name(path), self._content(part, shard))

    def hold(self, part: str, shard: BaseShard, *, reread: bool = False) -> Lease:
        """Make sure that one file is here while the lease lives: object storage's is fetched, or compared if `reread`.

        Raises: CorruptCacheError where object storage has not what the manifest names, StorageError, DiskFullError.
        """
        path = self._own_path(part, shard)
        if self.paths.remote is None:
            return Lease(path)
        return self.paths.remote.hold(self.paths.object_name(path), self._content(part, shard), reread=reread)

    def _own_path(self, part: str, shard: BaseShard) -> Path:
        group, _, own = part.rpartition("/")
        return (self.paths.group(group) if group else self.paths).shard(own, shard.name)

    def _content(self, part: str, shard: BaseShard) -> Content:
        facts = self.file(part, shard)
        return Content(facts.sha256, facts.size_bytes)

    def file(self, part: str, shard: BaseShard) -> FileFacts:
        """Identity of one file, as base or group name it."""
        group, _, own = part.rpartition("/")
        if not group:
            return shard.files[part]
        return self._group_files[group][shard.name][own]

    @cached_property
    def _group_files(self) -> dict[str, dict[str, dict[str, FileFacts]]]:
        return {
            name: {shard.name: shard.files for shard in group.manifest.shards} for name, group in self.groups.items()
        }

    def check_size(self, part: str, shard: BaseShard) -> Path:
        """The path of one file after comparing its size with the manifest's.

        Raises: CorruptCacheError.
        """
        path = self.path(part, shard)
        wanted = self.file(part, shard).size_bytes
        if path.is_symlink() or not path.is_file():
            raise CorruptCacheError(
                f"{path}: missing (or not an ordinary file), the manifest names it", remedy=Remedy.REPAIR
            )
        found = path.stat().st_size
        if found != wanted:
            raise CorruptCacheError(
                f"{path}: {found} bytes found, {wanted} wanted; the file is truncated", remedy=Remedy.REPAIR
            )
        return path

    def check_counts(self) -> None:
        """Refuse more images than the files can hold, before anybody takes memory for so many.

        Raises: CorruptCacheError.
        """
        # Others are not looked at: ten thousand calls to a busy file server by each of hundreds of ranks.
        for shard in self.manifest.shards:
            if shard.num_samples <= _MANY_SAMPLES:
                continue
            path = self.path(SAMPLES, shard)
            # A file that is missing or cut is reported when the shard is reached, and the others can be used.
            with contextlib.suppress(OSError):
                found = path.stat().st_size
                if found < shard.num_samples * LEAST_SAMPLE_BYTES:
                    raise CorruptCacheError(
                        f"{path}: {found} bytes cannot hold {shard.num_samples} images", remedy=Remedy.REPAIR
                    )

    def check_hash(
        self, part: str, shard: BaseShard, pause: Callable[[int], None], pieces: Iterable[memoryview]
    ) -> None:
        """Compare the XXH3 of one file with the manifest's, at memory speed.

        Args:
            part, shard: Which file.
            pause: Called with the size of each piece just read; may sleep, or raise to break off.
            pieces: The bytes of the file.

        Raises: CorruptCacheError.
        """
        digest = xxhash.xxh3_64()
        for piece in pieces:
            digest.update(piece)
            pause(len(piece))
        if digest.hexdigest() != self.file(part, shard).xxh3:
            path = self.path(part, shard)
            raise CorruptCacheError(f"{path}: bytes differ from what was written ({digest.name})", remedy=Remedy.REPAIR)

    def check_shard(self, shard: BaseShard, index: ShardIndex, columns: Sequence[Column]) -> None:
        """What a reader must know before it uses a shard besides hashes: sizes, and that all columns meet by key.

        Raises: CorruptCacheError with both keys where columns disagree.
        """
        # What comes from object storage was compared when it was fetched, and images that nobody reads are not.
        for part in (SAMPLES, *(column.name for column in columns)) if self.paths.remote is None else ():
            self.check_size(part, shard)
        names = self.member_names(index)
        for column in columns:
            if column.stride_bytes:
                self.strided(column, shard).check_headers(names)

    def fitting_columns(
        self, *, kind: str, tap: str | None = None, codec: str | None = None, group: str | None = None
    ) -> list[Column]:
        """All columns that fit; arguments as in `find_column`."""
        columns = self.columns if group is None else self.group(group).columns
        return [
            column
            for column in columns
            if column.kind == kind
            and codec in (None, column.codec)
            and (tap is None or self.groups[column.group].resolved(tap) == column.tap)
        ]

    def find_column(
        self, *, kind: str, tap: str | None = None, codec: str | None = None, group: str | None = None
    ) -> Column:
        """The one column that fits.

        Args:
            kind: ``patch``, ``prefix``, ``logits`` or ``embedding``.
            tap: Such as ``blocks.23/patch`` or ``blocks.-1/patch``, or None for any.
            codec: Codec name, or None for any.
            group: Name of a group, or None for any.

        Raises: TapError when none fits or several do, listing what there is.
        """
        fitting = self.fitting_columns(kind=kind, tap=tap, codec=codec, group=group)
        if len(fitting) == 1:
            return fitting[0]
        wanted = (f"{group}:" if group else "") + (tap or f"a {kind} tap") + (f" with codec {codec}" if codec else "")
        if fitting:
            raise self.ambiguous(wanted, [column.label for column in fitting])
        raise no_column(self.paths, wanted, tap or kind, self.columns, self.unusable)

    def ambiguous(self, wanted: str, held: list[str]) -> TapError:
        """The error for something wanted that each of these would fit."""
        return ambiguous(self.paths, wanted, held)


# Arrays for so many images of a shard are small, whatever its file is.
_MANY_SAMPLES = 10**6


def open_cache(root: str | Location) -> Cache:
    """Open a finished cache. A group that cannot be used is remembered in `unusable` and does not raise.

    Args:
        root: Its folder, or ``s3://BUCKET/KEY``, gs:// or az://, whose files are fetched when they are needed.

    Raises: IncompleteCacheError, CorruptCacheError, CacheMismatchError.
    """
    paths = reading_paths(root)
    manifest, digest = read_base(paths)
    groups: dict[str, Group] = {}
    unusable: dict[str, KdcacheError] = {}
    for name in paths.group_names():
        own = paths.group(name)
        try:
            group, group_digest = read_group(own, manifest, digest)
        except KdcacheError as error:
            unusable[name] = error
        else:
            groups[name] = Group(name, own, group, group_digest)
    return Cache(paths, manifest, digest, groups, unusable)
