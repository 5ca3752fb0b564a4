"""A cache from one HDF5 file, with the bytes that it had; a kill at any moment loses at most a file's work."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py as typeless_h5py
import numpy as np

from kdcache.cache.base import BaseManifest
from kdcache.cache.cache import open_cache
from kdcache.cache.ecosystem import write_base_files, write_group_files
from kdcache.cache.facts import ColumnFacts, FileFacts
from kdcache.cache.group import GroupManifest
from kdcache.cache.index import read_index
from kdcache.cache.lock import JobLock
from kdcache.cache.manifest import fingerprint_bytes, manifest_digest, parse_manifest, write_manifest
from kdcache.cache.paths import INDEX, RESERVED_NAMES, CachePaths, is_safe_name
from kdcache.cache.record import Array
from kdcache.cache.shard import META_MEMBER, TarWriter, append_records, member_name
from kdcache.cache.tar import END_OF_TAR
from kdcache.convert.hdf5_layout import FORMAT, manifest_dataset, stored_fields, stored_files
from kdcache.distributed.env import worker_env
from kdcache.durable import NewFile, make_folder, remove_stale_temporaries, sha256_file
from kdcache.errors import CacheMismatchError, CorruptCacheError, UsageError
from kdcache.storage import entries, reading_errors

# h5py ships no types; every dataset is compared with what the manifests say before it is read.
h5py: Any = typeless_h5py

_PIECE_BYTES = 4 << 20
_ROWS = 256


@dataclass(frozen=True)
class RestoredCache:
    """What was written.

    Args:
        root: The cache.
        num_files, num_skipped: Files written now, and by a run that was killed.
    """

    root: Path
    num_files: int
    num_skipped: int


@dataclass(frozen=True)
class _Source:
    """An opened HDF5 file with its manifests."""

    path: Path
    file: Any
    base: BaseManifest
    groups: Mapping[str, GroupManifest]


def from_hdf5(
    path: Path, root: Path, *, on_progress: Callable[[int, int], None] = lambda done, total: None
) -> RestoredCache:
    """Write the cache that an HDF5 file holds; the same again resumes. Every file is hashed before it appears.

    Args:
        path: As `to_hdf5` writes it.
        root: The cache folder: new, empty, or begun by this.
        on_progress: Called with the files that are done and all of them.

    Raises: UsageError for a file or a folder that is something else, CorruptCacheError for a damaged file,
        DiskFullError.
    """
    if not path.is_file() or not h5py.is_hdf5(path):
        raise UsageError(f"{path}: is no HDF5 file")
    with _damage(path), h5py.File(path, "r") as file:
        source = _opened(path, file)
        paths = CachePaths(root)
        _refuse_other(paths, source)
        make_folder(paths.job)
        lock = JobLock(paths.job, worker_env().job_id)
        try:
            written = _write_all(source, paths, on_progress)
            _finish(source, paths)
        finally:
            lock.close()
    return RestoredCache(root, sum(written), len(written) - sum(written))


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    """Turn what h5py raises for a damaged file, which is of many classes, into one error."""
    try:
        with reading_errors(path):
            yield
    except (RuntimeError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise CorruptCacheError(f"{path}: damaged ({error}); write the file again from the cache") from error


def _opened(path: Path, file: Any) -> _Source:
    if file.attrs.get("format") != FORMAT:
        raise UsageError(f"{path}: is an HDF5 file, but no cache of kdcache (no attribute format: {FORMAT!r})")
    identity: dict[str, str] = json.loads(file.attrs["identity"])
    base = _manifest(path, file, "", BaseManifest)
    groups: dict[str, GroupManifest] = {}
    for name in sorted(file["groups"]) if "groups" in file else ():
        if not is_safe_name(name) or name in RESERVED_NAMES:
            raise CorruptCacheError(f"{path}: {name!r} cannot name a group")
        group = groups[name] = _manifest(path, file, name, GroupManifest)
        if group.base != manifest_digest(base) or [each.name for each in group.shards] != [s.name for s in base.shards]:
            raise CorruptCacheError(f"{path}: group {name} does not belong to the base in the file")
    found = {
        "base": manifest_digest(base),
        **{f"group {name}": manifest_digest(group) for name, group in groups.items()},
    }
    if found != identity:
        raise CorruptCacheError(f"{path}: its manifests are not those that it was written with")
    return _Source(path, file, base, groups)


def _manifest(path: Path, file: Any, group: str, kind: Any) -> Any:
    name = manifest_dataset(group)
    return parse_manifest(
        _dataset(path, file, name, None, np.dtype(np.uint8))[:].tobytes(), kind, where=f"{path}, {name}"
    )


def _dataset(path: Path, file: Any, name: str, shape: tuple[int, ...] | None, dtype: np.dtype[Any]) -> Any:
    """A dataset in this very file, of this shape and type. Raises: CorruptCacheError."""
    at = file
    for part in name.split("/"):
        link = at.get(part, getlink=True) if isinstance(at, h5py.Group) else None
        if not isinstance(link, h5py.HardLink):
            raise CorruptCacheError(f"{path}: no dataset {name}")
        at = at[part]
    is_here = isinstance(at, h5py.Dataset) and not at.is_virtual and not at.external
    if not is_here or at.nbytes > path.stat().st_size:
        raise CorruptCacheError(f"{path}: {name} is no dataset with its bytes in this file")
    if at.dtype != dtype or (shape is not None and at.shape != shape) or (shape is None and at.ndim != 1):
        raise CorruptCacheError(f"{path}: {name} is {at.dtype} {at.shape}, wanted {dtype} {shape or '(bytes,)'}")
    return at


def _refuse_other(paths: CachePaths, source: _Source) -> None:
    root = paths.root
    if not root.exists():
        return
    if not root.is_dir():
        raise UsageError(f"{root}: is a file; wanted a folder for the cache")
    known = {"samples", "ledger", INDEX, "job", "manifest.json", "manifest.sha256", "_info.json", *source.groups}
    strange = [
        each.name for each in entries(root) if each.name not in known and not each.name.startswith(("wids-", "."))
    ]
    if strange:
        raise UsageError(
            f"{root}: holds {', '.join(strange[:5])}, which the cache in {source.path} does not; choose another folder"
        )
    for name, manifest in {"": source.base, **source.groups}.items():
        own = paths.group(name) if name else paths
        if own.manifest.is_file() and sha256_file(own.manifest) != manifest_digest(manifest):
            raise CacheMismatchError(f"{own.root}: is another than that in {source.path}; choose another folder")


def _write_all(source: _Source, paths: CachePaths, on_progress: Callable[[int, int], None]) -> list[bool]:
    """Write every file of every shard. Returns: for each whether it was not there before."""
    fields = {each.dataset: each for each in stored_fields(source.base, source.groups)}
    files = list(stored_files(source.base, source.groups))
    columns = [
        (name, column)
        for name, group in source.groups.items()
        for column in group.fingerprint.columns
        if column.stride_bytes
    ]
    for stored in fields.values():
        _dataset(source.path, source.file, stored.dataset, stored.shape, stored.field.dtype)
    total = len(files) + len(columns) * len(source.base.shards)
    written: list[bool] = []
    for stored in files:
        target = (paths.group(stored.group) if stored.group else paths).shard(stored.part, stored.shard)
        shape = (stored.facts.size_bytes,)
        dataset = _dataset(source.path, source.file, stored.dataset, shape, np.dtype(np.uint8))
        written.append(_write_file(source, target, dataset, stored.facts))
        on_progress(len(written), total)
    first = 0
    for number, shard in enumerate(source.base.shards):
        index = read_index(paths.shard(INDEX, shard.name))
        views = range(source.base.fingerprint.views.num_views)
        names = [member_name(index.key(row), view) for row in range(len(index)) for view in views]
        for group, column in columns:
            facts = source.groups[group].shards[number].files[column.name]
            target = paths.group(group).shard(column.name, shard.name)
            written.append(_write_column(source, target, group, column, names, first, facts))
            on_progress(len(written), total)
        first += len(names)
    return written


def _is_there(target: Path, facts: FileFacts) -> bool:
    make_folder(target.parent)
    remove_stale_temporaries(target.parent)
    if not target.is_file():
        return False
    if target.stat().st_size != facts.size_bytes or sha256_file(target) != facts.sha256:
        raise CorruptCacheError(f"{target}: is there with other bytes than the file holds; remove it, or the folder")
    return True


def _write_file(source: _Source, target: Path, dataset: Any, facts: FileFacts) -> bool:
    if _is_there(target, facts):
        return False
    with NewFile(target) as file:
        for start in range(0, facts.size_bytes, _PIECE_BYTES):
            file.write(dataset[start : start + _PIECE_BYTES].tobytes())
        _refuse_damage(source, target, file.sha256, facts)
        file.commit()
    return True


def _write_column(
    source: _Source, target: Path, group: str, column: ColumnFacts, names: list[str], first: int, facts: FileFacts
) -> bool:
    """Write the tar of a column again. Args: first: Its first record in the datasets."""
    if _is_there(target, facts):
        return False
    layout = column.layout()
    datasets = {
        field.name: source.file[f"groups/{group}/columns/{column.name}/{field.name}"] for field in layout.fields
    }
    tar = TarWriter(target)
    try:
        for start in range(0, len(names), _ROWS):
            part = names[start : start + _ROWS]
            rows = slice(first + start, first + start + len(part))
            fields: dict[str, Array] = {name: np.asarray(dataset[rows]) for name, dataset in datasets.items()}
            append_records(tar, layout, part, layout.pack(fields))
        tar.append(META_MEMBER, fingerprint_bytes(source.groups[group].fingerprint))
        tar.file.write(END_OF_TAR)
        _refuse_damage(source, target, tar.file.sha256, facts)
        tar.file.commit()
    finally:
        tar.discard()
    return True


def _refuse_damage(source: _Source, target: Path, found: str, facts: FileFacts) -> None:
    if found != facts.sha256:
        raise CorruptCacheError(
            f"{source.path}: what it holds of {target.parent.name}/{target.name} has sha256 {found[:12]}…, its "
            f"manifest says {facts.sha256[:12]}…; write the file again from the cache"
        )


def _finish(source: _Source, paths: CachePaths) -> None:
    write_base_files(paths, source.base)
    write_manifest(paths, source.base)
    for name, group in source.groups.items():
        write_group_files(paths.group(name), group, source.base)
        write_manifest(paths.group(name), group)
    if unusable := open_cache(paths.root).unusable:
        name, error = next(iter(unusable.items()))
        raise CorruptCacheError(f"{paths.root}: group {name} cannot be used: {error}")
