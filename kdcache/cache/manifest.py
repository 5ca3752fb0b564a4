"""Manifests: a fingerprint of how a base or a group was made, and the hash of everything in it. Written last."""

import hashlib
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any, TypeVar, cast

import msgspec

from kdcache.cache.facts import Facts
from kdcache.cache.paths import CachePaths
from kdcache.durable import write_changed
from kdcache.errors import CacheMismatchError, CorruptCacheError, IncompleteCacheError, Remedy
from kdcache.storage import read_regular
from kdcache.strict_json import dump_json, load_json

FORMAT_VERSION = 2

Record = TypeVar("Record", bound=Facts)


def fingerprint_bytes(fingerprint: Facts) -> bytes:
    """Canonical JSON of a fingerprint."""
    return dump_json(msgspec.to_builtins(fingerprint))


def fingerprint_digest(fingerprint: Facts) -> str:
    """sha256 of a fingerprint's canonical JSON, hex."""
    return hashlib.sha256(fingerprint_bytes(fingerprint)).hexdigest()


def read_fingerprint(data: bytes, kind: type[Record], *, where: str) -> Record:
    """Parse a fingerprint.

    Args:
        data: Canonical JSON.
        kind: Of a base or of a group.
        where: For messages.

    Raises: CorruptCacheError, CacheMismatchError for another format version.
    """
    value = load_json(data, where=where)
    _check_version(value, where)
    return _convert(value, kind, where)


def manifest_digest(manifest: Facts) -> str:
    """sha256 of the bytes that `write_manifest` writes, hex."""
    return fingerprint_digest(manifest)


def write_manifest(paths: CachePaths, manifest: Facts) -> str:
    """Write a manifest and, before it, its digest, where they are not there already. Returns the digest.

    A crash between the two leaves what reads as incomplete; the same extraction or a rebuild finishes it.
    """
    data = dump_json(msgspec.to_builtins(manifest))
    digest = hashlib.sha256(data).hexdigest()
    write_changed(paths.manifest_digest, digest.encode() + b"\n")
    write_changed(paths.manifest, data)
    return digest


def read_manifest(paths: CachePaths, kind: type[Record]) -> tuple[Record, str]:
    """Read and check a manifest; names in it are the caller's to check.

    Returns: the manifest and its sha256.
    Raises: IncompleteCacheError if there is none, CorruptCacheError if its bytes are not the ones written,
        CacheMismatchError if another version of the format wrote it.
    """
    value, digest = _read_value(paths)
    return _convert(value, kind, paths.where(paths.manifest)), digest


def parse_manifest(data: bytes, kind: type[Record], *, where: str) -> Record:
    """A manifest from its bytes; names in it are the caller's to check.

    Args:
        data: As `write_manifest` writes them.
        kind: Of a base or of a group.
        where: For messages.

    Raises: CorruptCacheError, CacheMismatchError for another format version.
    """
    value = load_json(data, where=where)
    _check_version(_get(value, "fingerprint"), where)
    return _convert(value, kind, where)


def known_fingerprint(paths: CachePaths, kind: type[Record]) -> Record:
    """The fingerprint in a manifest. Raises: as read_manifest."""
    value, _ = _read_value(paths)
    return _convert(_get(value, "fingerprint"), kind, paths.where(paths.manifest))


def _read_value(paths: CachePaths) -> tuple[Any, str]:
    if not paths.manifest.is_file():
        raise IncompleteCacheError(
            f"{paths}: no manifest.json; the extraction has not finished", remedy=Remedy.FINISH_EXTRACTION
        )
    data = read_regular(paths.manifest)
    digest = hashlib.sha256(data).hexdigest()
    recorded = ""
    if paths.manifest_digest.is_file():
        recorded = read_regular(paths.manifest_digest).decode("ascii", "replace").strip()
    if recorded != digest:
        raise CorruptCacheError(
            f"{paths.where(paths.manifest)}: sha256 is {digest[:12]}…, {paths.manifest_digest.name} says "
            f"{recorded[:12] or 'nothing'}…",
            remedy=Remedy.REBUILD,
        )
    value = load_json(data, where=paths.where(paths.manifest))
    _check_version(_get(value, "fingerprint"), paths.where(paths.manifest))
    return value, digest


def differences(found: Facts, wanted: Facts) -> list[str]:
    """``field: found X, wanted Y`` for every field that differs; of columns that one side lacks, their names alone."""
    plain_found, plain_wanted = msgspec.to_builtins(found), msgspec.to_builtins(wanted)
    lines = _without_others(plain_found, plain_wanted)
    flat_found = dict(_flatten(plain_found, PurePosixPath()))
    flat_wanted = dict(_flatten(plain_wanted, PurePosixPath()))
    missing = "nothing"
    return lines + [
        f"{name}: the cache has {flat_found.get(name, missing)!r}, this run wants {flat_wanted.get(name, missing)!r}"
        for name in dict.fromkeys([*flat_found, *flat_wanted])
        if flat_found.get(name, missing) != flat_wanted.get(name, missing)
    ]


def _without_others(found: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """A line for each list of named items (columns) that are not the same; leaves those that both sides have."""
    lines: list[str] = []
    for field in found:
        if not (field in wanted and _is_named(found[field]) and _is_named(wanted[field])):
            continue
        names = [[str(item["name"]) for item in side[field]] for side in (found, wanted)]
        if set(names[0]) != set(names[1]):
            held, asked = (", ".join(each) for each in names)
            lines.append(f"{field}: the cache has {held}, this run wants {asked}")
            shared = set(names[0]) & set(names[1])
            for side in (found, wanted):
                side[field] = [item for item in side[field] if item["name"] in shared]
    return lines


def _is_named(value: Any) -> bool:
    return isinstance(value, list) and bool(_get(next(iter(cast("list[Any]", value)), None), "name"))


def refuse(paths: CachePaths, problem: str) -> CorruptCacheError:
    """The error for a manifest that says what cannot be."""
    return CorruptCacheError(f"{paths.where(paths.manifest)}: {problem}", remedy=Remedy.REBUILD)


def _get(value: Any, name: str) -> Any:
    return cast("dict[str, Any]", value).get(name) if isinstance(value, dict) else None


def _flatten(value: Any, path: PurePosixPath) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for name, item in cast("dict[str, Any]", value).items():
            yield from _flatten(item, path / name)
    elif _is_named(value):
        for item in cast("list[dict[str, Any]]", value):
            yield from _flatten(item, path / item["name"])
    else:
        yield str(path).replace("/", "."), value


def _convert(value: Any, kind: type[Record], where: str) -> Record:
    try:
        found = msgspec.convert(value, kind)
        found.check(where)
        return found
    except (msgspec.ValidationError, ValueError) as error:
        raise CorruptCacheError(f"{where}: {error}", remedy=Remedy.REBUILD) from None


def _check_version(value: Any, where: str) -> None:
    version = _get(value, "format_version")
    if isinstance(version, int) and version != FORMAT_VERSION:
        raise CacheMismatchError(
            f"{where}: written in cache format {version}, this kdcache reads format {FORMAT_VERSION}",
            remedy=Remedy.UPDATE if version > FORMAT_VERSION else Remedy.EXTRACT_ELSEWHERE,
        )
