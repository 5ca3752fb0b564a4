"""The manifest: one fingerprint of how a cache was made, and the hash of everything in it. Written last."""

import hashlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, cast

import msgspec
import xxhash

from kdcache.cache.codecs import Codec, make_codec
from kdcache.cache.paths import RESERVED_NAMES, CachePaths, is_safe_name
from kdcache.cache.record import RecordLayout
from kdcache.durable import NewFile, file_pieces, write_file
from kdcache.errors import CacheMismatchError, CorruptCacheError, IncompleteCacheError
from kdcache.strict_json import dump_json, load_json

FORMAT_VERSION = 1
_REBUILD = "restore the file, or run `kdcache verify --rebuild`"


class Facts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of the parts of a manifest: strict types, no unknown fields."""


class SourceFacts(Facts, frozen=True):
    """Which images. `keys_sha256` is over the source keys in the order of the cache, one per line."""

    kind: str
    num_samples: int
    keys_sha256: str
    num_classes: int
    class_names: list[str]


class ViewFacts(Facts, frozen=True):
    """How views were drawn and replayed; `fields` names the integers of a view, `size` is S of the (S, S, 3) pixels."""

    recipe: str
    seed: int
    num_views: int
    size: int
    interpolation: str
    fields: list[str]
    params: dict[str, Any]
    mean: list[float]
    std: list[float]


class TeacherFacts(Facts, frozen=True):
    """Which teacher, and where it ran.

    `weights` is hub, file or random; `weights_sha256` is over the names and bytes of its tensors. `cpu_threads` is 0 on
    an accelerator; on a CPU the last bits of a forward depend on it.
    """

    name: str
    kwargs: dict[str, Any]
    pretrained_cfg: dict[str, Any]
    weights: str
    weights_sha256: str
    precision: str
    device: str
    cpu_threads: int


class ColumnFacts(Facts, frozen=True):
    """One tap under one codec. `grid` is (rows, columns) of patch tokens, empty for other kinds."""

    name: str
    tap: str
    kind: str
    codec: str
    params: dict[str, Any]
    shape: list[int]
    grid: list[int]
    stride_bytes: int

    def make_codec(self) -> Codec:
        """The codec that wrote this column."""
        return make_codec(self.codec, self.params)

    def layout(self) -> RecordLayout:
        """Bytes of one record."""
        return self.make_codec().layout(tuple(self.shape))


class Fingerprint(Facts, frozen=True):
    """Everything that decides the bytes of a cache. Two runs may share a cache only if all of it is equal."""

    format_version: int
    split: str
    order: str
    images: str
    shard_samples: int
    batch_size: int
    statistics: str
    source: SourceFacts
    views: ViewFacts
    teacher: TeacherFacts
    columns: list[ColumnFacts]
    versions: dict[str, str]

    def column(self, name: str) -> ColumnFacts:
        """The column of this name (it must exist)."""
        return next(column for column in self.columns if column.name == name)


class FileFacts(Facts, frozen=True):
    """Identity of one file. `xxh3` (64 bits) is for checks while training; empty in caches older than it."""

    sha256: str
    size_bytes: int
    xxh3: str = ""

    @classmethod
    def of(cls, file: NewFile) -> "FileFacts":
        """Of what was written to a file."""
        return cls(sha256=file.sha256, xxh3=file.xxh3, size_bytes=file.size_bytes)

    @classmethod
    def read(cls, path: Path) -> "FileFacts":
        """Of a file on disk."""
        sha256, xxh3, size_bytes = hashlib.sha256(), xxhash.xxh3_64(), 0
        for piece in file_pieces(path):
            sha256.update(piece)
            xxh3.update(piece)
            size_bytes += len(piece)
        return cls(sha256=sha256.hexdigest(), xxh3=xxh3.hexdigest(), size_bytes=size_bytes)


class ShardFacts(Facts, frozen=True):
    """One finished shard: its files by part (``samples``, ``index``, ``ledger`` and the columns)."""

    name: str
    num_samples: int
    num_bad: int
    files: dict[str, FileFacts]


class ColumnSummary(Facts, frozen=True):
    """Fidelity of the codec on this data (empty if unknown) and the range of the decoded values."""

    fidelity: dict[str, float]
    minimum: float
    maximum: float
    rms: float
    num_tokens: int
    num_zero_tokens: int


class Manifest(Facts, frozen=True):
    """The whole cache."""

    fingerprint: Fingerprint
    shards: list[ShardFacts]
    columns: dict[str, ColumnSummary]
    image_modes: dict[str, int]
    num_rotated: int
    num_bad: int

    @property
    def num_samples(self) -> int:
        """Images whose features are stored."""
        return sum(shard.num_samples for shard in self.shards)

    @property
    def num_records(self) -> int:
        """Views of images: records in each column."""
        return self.num_samples * self.fingerprint.views.num_views

    def part_bytes(self, part: str) -> int:
        """Size of one part (column, samples, index, ledger) over all shards."""
        return sum(shard.files[part].size_bytes for shard in self.shards)


def fingerprint_bytes(fingerprint: Fingerprint) -> bytes:
    """Canonical JSON of a fingerprint."""
    return dump_json(msgspec.to_builtins(fingerprint))


def read_fingerprint(data: bytes, *, where: str) -> Fingerprint:
    """Parse a fingerprint. Raises: CorruptCacheError, CacheMismatchError for another format version."""
    value = load_json(data, where=where)
    _check_version(value, where)
    return _convert(value, Fingerprint, where)


def write_manifest(paths: CachePaths, manifest: Manifest) -> str:
    """Write the manifest and, before it, its digest. Returns the digest.

    A crash between the two leaves a cache that reads as incomplete; the same extraction or a rebuild finishes it.
    """
    data = dump_json(msgspec.to_builtins(manifest))
    digest = hashlib.sha256(data).hexdigest()
    write_file(paths.manifest_digest, digest.encode() + b"\n")
    write_file(paths.manifest, data)
    return digest


def read_manifest(paths: CachePaths) -> tuple[Manifest, str]:
    """Read and check a manifest.

    Returns: the manifest and its sha256.
    Raises: IncompleteCacheError if there is none, CorruptCacheError if its bytes are not the ones written,
        CacheMismatchError if another version of the format wrote it.
    """
    if not paths.manifest.is_file():
        raise IncompleteCacheError(_no_manifest(paths))
    data = paths.manifest.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    recorded = paths.manifest_digest.read_text("ascii", "replace").strip() if paths.manifest_digest.is_file() else ""
    if recorded != digest:
        raise CorruptCacheError(
            f"{paths.manifest}: sha256 is {digest[:12]}…, {paths.manifest_digest.name} says "
            f"{recorded[:12] or 'nothing'}…; {_REBUILD}"
        )
    value = load_json(data, where=str(paths.manifest))
    _check_version(_get(value, "fingerprint"), str(paths.manifest))
    manifest = _convert(value, Manifest, str(paths.manifest))
    _check_names(manifest, paths)
    return manifest, digest


def differences(found: Fingerprint, wanted: Fingerprint) -> list[str]:
    """``field: found X, wanted Y`` for every field that differs."""
    flat_found = dict(_flatten(msgspec.to_builtins(found), PurePosixPath()))
    flat_wanted = dict(_flatten(msgspec.to_builtins(wanted), PurePosixPath()))
    missing = "nothing"
    return [
        f"{name}: the cache has {flat_found.get(name, missing)!r}, this run wants {flat_wanted.get(name, missing)!r}"
        for name in dict.fromkeys([*flat_found, *flat_wanted])
        if flat_found.get(name, missing) != flat_wanted.get(name, missing)
    ]


def _get(value: Any, name: str) -> Any:
    return cast("dict[str, Any]", value).get(name) if isinstance(value, dict) else None


def _flatten(value: Any, path: PurePosixPath) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for name, item in cast("dict[str, Any]", value).items():
            yield from _flatten(item, path / name)
    elif isinstance(value, list) and value and _get(value[0], "name"):
        for item in cast("list[dict[str, Any]]", value):
            yield from _flatten(item, path / item["name"])
    else:
        yield str(path).replace("/", "."), value


def _convert(value: Any, kind: Any, where: str) -> Any:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise CorruptCacheError(f"{where}: {error}; {_REBUILD}") from None


def _check_version(value: Any, where: str) -> None:
    version = _get(value, "format_version")
    if isinstance(version, int) and version != FORMAT_VERSION:
        raise CacheMismatchError(
            f"{where}: written in cache format {version}, this kdcache reads format {FORMAT_VERSION}; "
            + ("update kdcache" if version > FORMAT_VERSION else "read it with the older kdcache, or extract again")
        )


def _check_names(manifest: Manifest, paths: CachePaths) -> None:
    columns = [column.name for column in manifest.fingerprint.columns]
    names = columns + [shard.name for shard in manifest.shards]
    for name in names:
        if not is_safe_name(name) or name in RESERVED_NAMES:
            raise CorruptCacheError(f"{paths.manifest}: {name!r} cannot name a column or shard; {_REBUILD}")
    if len(set(names)) != len(names):
        raise CorruptCacheError(f"{paths.manifest}: a column or shard is named twice; {_REBUILD}")
    parts = {*RESERVED_NAMES[:3], *columns}
    for shard in manifest.shards:
        if set(shard.files) != parts:
            raise CorruptCacheError(f"{paths.manifest}: shard {shard.name} lists {sorted(shard.files)}; {_REBUILD}")


def _no_manifest(paths: CachePaths) -> str:
    if not paths.root.is_dir():
        return f"{paths.root}: no such folder; make a cache with `kdcache extract --out {paths.root}`"
    if paths.job.is_dir() or (paths.root / RESERVED_NAMES[0]).is_dir():
        return f"{paths.root}: the extraction has not finished; run the same `kdcache extract` command again"
    return f"{paths.root}: not a cache (no manifest.json); make one with `kdcache extract --out {paths.root}`"
