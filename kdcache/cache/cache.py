"""A finished cache, opened for reading."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import xxhash

from kdcache.cache.index import ShardIndex, read_index
from kdcache.cache.manifest import ColumnFacts, Manifest, ShardFacts, read_manifest
from kdcache.cache.paths import INDEX, SAMPLES, CachePaths
from kdcache.cache.shard import StridedShard, member_name
from kdcache.durable import file_pieces
from kdcache.errors import CorruptCacheError, TapError

_REPAIR = "run `kdcache verify` for the whole picture, `kdcache verify --repair` and the same `kdcache extract` to mend"


@dataclass(frozen=True)
class Cache:
    """A cache whose manifest has been read and checked; everything else is checked when first touched.

    Args:
        paths: Where it lies.
        manifest: What it holds.
        digest: sha256 of the manifest: the identity of the whole cache.
    """

    paths: CachePaths
    manifest: Manifest
    digest: str

    def shard_facts(self, name: str) -> ShardFacts:
        """The manifest's entry of a shard (it must exist)."""
        return next(shard for shard in self.manifest.shards if shard.name == name)

    def index(self, shard: ShardFacts, *, with_columns: bool = True) -> ShardIndex:
        """The index of a shard, hashed before it is parsed; without what it knows of the columns if so asked.

        Raises: CorruptCacheError.
        """
        path = self.check_size(INDEX, shard)
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != shard.files[INDEX].sha256:
            raise CorruptCacheError(f"{path}: not the index the manifest names; run `kdcache verify --rebuild`")
        return read_index(path, data=data, with_columns=with_columns)

    def strided(self, column: ColumnFacts, shard: ShardFacts) -> StridedShard:
        """A column's shard as a strided array; sizes are checked on access."""
        num_records = shard.num_samples * self.manifest.fingerprint.views.num_views
        return StridedShard(self.paths.shard(column.name, shard.name), column.layout(), num_records)

    def member_names(self, index: ShardIndex) -> list[str]:
        """Member names of a column in one shard, in order."""
        num_views = self.manifest.fingerprint.views.num_views
        return [member_name(index.key(row), view) for row in range(len(index)) for view in range(num_views)]

    def check_size(self, part: str, shard: ShardFacts) -> Path:
        """The path of one file after comparing its size with the manifest's.

        Raises: CorruptCacheError.
        """
        path = self.paths.shard(part, shard.name)
        wanted = shard.files[part].size_bytes
        if path.is_symlink() or not path.is_file():
            raise CorruptCacheError(f"{path}: missing (or not an ordinary file), the manifest names it; {_REPAIR}")
        found = path.stat().st_size
        if found != wanted:
            raise CorruptCacheError(f"{path}: {found} bytes found, {wanted} wanted; the file is truncated; {_REPAIR}")
        return path

    def check_hash(self, part: str, shard: ShardFacts, pause: Callable[[int], None]) -> None:
        """Compare the XXH3 of one file with the manifest's, at memory speed; sha256 where the cache has nothing else.

        Args:
            part, shard: Which file.
            pause: Called with the size of each piece just read; may sleep, or raise to break off.

        Raises: CorruptCacheError.
        """
        path = self.check_size(part, shard)
        facts = shard.files[part]
        digest = xxhash.xxh3_64() if facts.xxh3 else hashlib.sha256()
        for piece in file_pieces(path):
            digest.update(piece)
            pause(len(piece))
        if digest.hexdigest() != (facts.xxh3 or facts.sha256):
            raise CorruptCacheError(f"{path}: bytes differ from what was written ({digest.name}); {_REPAIR}")

    def check_shard(self, shard: ShardFacts, index: ShardIndex, columns: list[ColumnFacts]) -> None:
        """What a reader must know before it uses a shard besides hashes: sizes, and that all columns meet by key.

        Raises: CorruptCacheError with both keys where columns disagree.
        """
        for part in (SAMPLES, *(column.name for column in columns)):
            self.check_size(part, shard)
        names = self.member_names(index)
        for column in columns:
            self.strided(column, shard).check_headers(names)

    def find_column(self, *, kind: str, tap: str | None = None, codec: str | None = None) -> ColumnFacts:
        """The one column that fits.

        Args:
            kind: ``patch``, ``prefix`` or ``logits``.
            tap: Resolved tap, or None for any.
            codec: Codec name, or None for any.

        Raises: TapError when none fits or several do, listing what there is.
        """
        columns = self.manifest.fingerprint.columns
        fitting = [
            column
            for column in columns
            if column.kind == kind and tap in (None, column.tap) and codec in (None, column.codec)
        ]
        if len(fitting) == 1:
            return fitting[0]
        wanted = f"{tap or f'a {kind} tap'}" + (f" with codec {codec}" if codec else "")
        if fitting:
            held = ", ".join(f"{column.tap} ({column.codec})" for column in fitting)
            setting = "data.logits_codec" if kind == "logits" else "data.codec"
            raise TapError(
                f"{self.paths.root}: {wanted} could be any of {held}; choose with `--set {setting}=...`"
                + ("" if kind == "logits" else " or `--set method.tap=...`")
            )
        held = ", ".join(f"{column.tap} ({column.codec})" for column in columns)
        raise TapError(
            f"{self.paths.root}: no column for {wanted}; the cache holds {held}. Extract again with "
            f"`--tap {tap or _EXAMPLE_TAPS[kind]}`, or train without this term: `--set method.{_WEIGHTS[kind]}=0`"
        )


_WEIGHTS = {"patch": "feature_weight", "prefix": "feature_weight", "logits": "logit_weight"}
_EXAMPLE_TAPS = {"patch": "blocks.-1/patch", "prefix": "blocks.-1/prefix", "logits": "head/logits"}


def open_cache(root: str | Path) -> Cache:
    """Open a finished cache.

    Raises: IncompleteCacheError, CorruptCacheError, CacheMismatchError.
    """
    paths = CachePaths(Path(root))
    manifest, digest = read_manifest(paths)
    return Cache(paths, manifest, digest)
