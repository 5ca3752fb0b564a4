"""A whole cache as one HDF5 file; a kill at any moment loses at most a shard's work."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BufferedRandom
from pathlib import Path
from typing import Any

import h5py as typeless_h5py
import numpy as np

from kdcache.cache.base import BaseShard
from kdcache.cache.cache import Cache, open_cache
from kdcache.cache.lock import JobLock
from kdcache.convert.hdf5_layout import (
    FORMAT,
    byte_array,
    manifest_dataset,
    stored_fields,
    stored_files,
)
from kdcache.distributed.env import worker_env
from kdcache.durable import file_pieces, fsync_folder, make_folder, write_file
from kdcache.errors import CacheMismatchError, UsageError
from kdcache.storage import read_regular, reading_errors, storage_errors
from kdcache.strict_json import dump_json, load_json

# h5py ships no types.
h5py: Any = typeless_h5py

_PARTIAL, _PROGRESS = "partial.h5", "progress.json"
_ROWS = 256


@dataclass(frozen=True)
class Hdf5Report:
    """What was written.

    Args:
        path: The file.
        size_bytes: Of it.
        num_shards, num_skipped: Shards written now, and by a run that was killed.
    """

    path: Path
    size_bytes: int
    num_shards: int
    num_skipped: int


def to_hdf5(root: Path, out: Path, *, on_progress: Callable[[int, int], None] = lambda done, total: None) -> Hdf5Report:
    """Write a cache, all usable groups of it, as one HDF5 file; the same again resumes. The cache is only read.

    The places of all bytes are fixed first and the file is closed; only then they are filled, by address. So a kill
    never leaves HDF5's own structures half written, and what is done is noted after every shard.

    Args:
        root: The cache.
        out: The file; a folder ``<out>.job`` lies beside it until it is finished.
        on_progress: Called with the shards that are done and all of them.

    Raises: UsageError where something else is at `out`, CacheMismatchError where a file of another cache was begun
        there, CorruptCacheError for a damaged cache, DiskFullError.
    """
    cache = open_cache(root)
    if cache.unusable:
        name, error = next(iter(cache.unusable.items()))
        raise CacheMismatchError(f"{root}: group {name} cannot be used, so the cache cannot be kept whole: {error}")
    identity = {"base": cache.digest, **{f"group {name}": group.digest for name, group in cache.groups.items()}}
    total = len(cache.manifest.shards)
    if out.exists():
        _refuse_other(out, identity)
        return Hdf5Report(out, out.stat().st_size, 0, total)
    job = out.with_name(f"{out.name}.job")
    make_folder(job)
    lock = JobLock(job, worker_env().job_id, action="writes this file")
    try:
        done = _begun(job, identity)
        if not done:
            with storage_errors(job, "write"):
                _lay_out(job / _PARTIAL, cache, identity)
            _note(job, identity, 0)
        skipped = done
        with storage_errors(job / _PARTIAL, "write"), (job / _PARTIAL).open("r+b") as file:
            places = _places(job / _PARTIAL)
            first = sum(shard.num_samples for shard in cache.manifest.shards[:done]) * cache.num_views
            for number in range(done, total):
                shard = cache.manifest.shards[number]
                for offset, data in _shard_bytes(cache, shard, places, first):
                    file.seek(offset)
                    file.write(data)
                _sync(file)
                _note(job, identity, number + 1)
                first += shard.num_samples * cache.num_views
                on_progress(number + 1, total)
        with storage_errors(out, "write"):
            (job / _PARTIAL).rename(out)
        fsync_folder(out.parent)
    finally:
        lock.close()
    with storage_errors(job, "remove"):
        shutil.rmtree(job)
    return Hdf5Report(out, out.stat().st_size, total - skipped, skipped)


def _refuse_other(out: Path, identity: dict[str, str]) -> None:
    found: dict[str, str] | None = None
    if out.is_file() and h5py.is_hdf5(out):
        with reading_errors(out), h5py.File(out, "r") as file:
            if file.attrs.get("format") == FORMAT:
                found = json.loads(file.attrs["identity"])
    if found is None:
        raise UsageError(f"{out}: is there already and is no cache as HDF5; choose another name")
    if found != identity:
        raise UsageError(f"{out}: is there already and holds another cache; choose another name")


def _begun(job: Path, identity: dict[str, str]) -> int:
    """Shards that a run before this one has finished."""
    progress = job / _PROGRESS
    if not progress.is_file() or not (job / _PARTIAL).is_file():
        return 0
    noted: Any = load_json(read_regular(progress), where=str(progress))
    if noted["identity"] != identity:
        raise CacheMismatchError(
            f"{job}: a file of another cache, or of this one with other groups, was begun here; remove this folder to "
            "begin again"
        )
    return int(noted["done"])


def _note(job: Path, identity: dict[str, str], done: int) -> None:
    write_file(job / _PROGRESS, dump_json({"identity": identity, "done": done}))


def _sync(file: BufferedRandom) -> None:
    file.flush()
    os.fsync(file.fileno())


def _lay_out(path: Path, cache: Cache, identity: dict[str, str]) -> None:
    """The file with a place for every byte, and its manifests."""
    groups = {name: group.manifest for name, group in cache.groups.items()}
    with h5py.File(path, "w", libver=("earliest", "v110")) as file:
        file.attrs["format"] = FORMAT
        file.attrs["identity"] = json.dumps(identity)
        for name, paths in {"": cache.paths, **{name: group.paths for name, group in cache.groups.items()}}.items():
            file.create_dataset(manifest_dataset(name), data=byte_array(read_regular(paths.manifest)))
        for stored in stored_files(cache.manifest, groups):
            _reserve(file, stored.dataset, (stored.facts.size_bytes,), np.dtype(np.uint8))
        for stored in stored_fields(cache.manifest, groups):
            _reserve(file, stored.dataset, stored.shape, stored.field.dtype)
            column = stored.column
            file[f"groups/{stored.group}/columns/{column.name}"].attrs.update(
                {
                    "tap": column.tap,
                    "kind": column.kind,
                    "codec": column.codec,
                    "params": json.dumps(column.params),
                    "shape": column.shape,
                    "grid": np.array(column.grid, np.int64),
                }
            )


def _reserve(file: Any, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_layout(h5py.h5d.CONTIGUOUS)
    plist.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    plist.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    plist.set_obj_track_times(False)
    links = h5py.h5p.create(h5py.h5p.LINK_CREATE)
    links.set_create_intermediate_group(True)
    space = h5py.h5s.create_simple(shape)
    kind = h5py.h5t.py_create(dtype, logical=True)
    h5py.h5d.create(file.id, name.encode(), kind, space, plist, links)


def _places(path: Path) -> dict[str, int]:
    """Where the bytes of each dataset begin; those without bytes are left out."""
    found: dict[str, int] = {}

    def note(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.size:
            found[name] = item.id.get_offset()

    with h5py.File(path, "r") as file:
        file.visititems(note)
    return found


def _shard_bytes(
    cache: Cache, shard: BaseShard, places: dict[str, int], first: int
) -> Iterator[tuple[int, memoryview | bytes]]:
    """All bytes of a shard with their places. Args: first: Its first record in the cache."""
    groups = {name: group.manifest for name, group in cache.groups.items()}
    for stored in stored_files(cache.manifest, groups):
        if stored.shard != shard.name:
            continue
        part = f"{stored.group}/{stored.part}" if stored.group else stored.part
        path = cache.check_size(part, shard)
        cache.check_hash(part, shard, lambda size: None, file_pieces(path))
        offset = places.get(stored.dataset, 0)
        for piece in file_pieces(path):
            yield offset, piece
            offset += len(piece)
    index = cache.index(shard)
    for group in cache.groups.values():
        for column in group.columns:
            if not column.stride_bytes:
                continue
            path = cache.check_size(column.name, shard)
            cache.check_hash(column.name, shard, lambda size: None, file_pieces(path))
            cache.check_shard(shard, index, [column])
            payloads = cache.strided(column, shard).payloads()
            for start in range(0, len(payloads), _ROWS):
                fields = column.layout().unpack(np.ascontiguousarray(payloads[start : start + _ROWS]))
                for field in column.layout().fields:
                    place = places[f"groups/{group.name}/columns/{column.facts.name}/{field.name}"]
                    yield place + (first + start) * field.size_bytes, fields[field.name].tobytes()
