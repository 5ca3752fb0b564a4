"""HDF5 as a plain container of arrays: nothing but numeric and fixed-length string datasets is written or accepted.

Readers hash a file before HDF5 sees it.
"""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import h5py as typeless_h5py  # pyright: ignore[reportMissingTypeStubs]
import numpy as np

from kdcache.cache.facts import FileFacts
from kdcache.cache.paths import is_safe_name
from kdcache.cache.record import Array
from kdcache.cache.schema import ArraySpec, check_arrays, check_range
from kdcache.errors import CorruptCacheError, Remedy

# h5py ships no types; what comes out of it is checked at run time, in _read_group.
h5py: Any = typeless_h5py

_ALLOWED_FILTERS = {"fletcher32"}
_MAX_DEPTH = 2
_HEAD_SPECS: dict[str, ArraySpec] = {
    "plan": ("|u1", (1, 32)),
    "files/parts": ("S", ("P",)),
    "files/sha256": ("|u1", ("P", 32)),
    "files/xxh3": ("|u1", ("P", 8)),
    "files/size_bytes": ("<i8", ("P",)),
}


def hdf5_bytes(arrays: Mapping[str, Array]) -> bytes:
    """The HDF5 file of some arrays by path; the same arrays give the same bytes."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", libver=("earliest", "v110")) as file:
        for name, values in arrays.items():
            # HDF5 checksums chunks only, and neither an empty dataset nor a number can be chunked.
            if values.size and values.ndim:
                file.create_dataset(name, data=values, chunks=values.shape, fletcher32=True)
            else:
                file.create_dataset(name, data=values)
    return buffer.getvalue()


def read_hdf5(path: Path, data: bytes, *, skip: str = "") -> dict[str, Array]:
    """Every dataset by its path.

    Args:
        path: The file, for messages.
        data: Its bytes.
        skip: A group at the top that is left out.

    Raises: CorruptCacheError for a file that is no HDF5, or asks HDF5 for anything unusual.
    """
    try:
        with h5py.File(io.BytesIO(data), "r") as file:
            return _Reading(path, len(data)).group(file, skip=skip)
    except CorruptCacheError:
        raise
    except Exception as error:  # HDF5 reports damage in many ways, all of them mean the same here
        raise unreadable(path, error) from error


def unreadable(path: Path, error: object) -> CorruptCacheError:
    """The error for an index that cannot be read."""
    return CorruptCacheError(f"{path}: not a readable index ({error!r})", remedy=Remedy.REBUILD)


class IndexHead(NamedTuple):
    """What every index begins with.

    Attributes:
        plan: Digest of the fingerprint under which the shard was written, hex.
        files: Identity of the shard's other files, by part; naming them is what makes the shard done.
    """

    plan: str
    files: dict[str, FileFacts]


def head_arrays(plan: str, files: Mapping[str, FileFacts]) -> dict[str, Array]:
    """The head of an index, as datasets ``plan`` and under ``files/``."""
    facts = list(files.values())
    return {
        "plan": from_hex([plan], 32),
        "files/parts": encoded(list(files)),
        "files/sha256": from_hex([each.sha256 for each in facts], 32),
        "files/xxh3": from_hex([each.xxh3 for each in facts], 8),
        "files/size_bytes": np.array([each.size_bytes for each in facts], np.int64),
    }


def head_from(arrays: Mapping[str, Array]) -> IndexHead:
    """What head_arrays wrote. Raises: ValueError, KeyError for anything else."""
    check_arrays(arrays, _HEAD_SPECS)
    check_range("files/size_bytes", arrays["files/size_bytes"], 0, 2**53)
    files = {
        decoded(part): FileFacts(sha256=digest.tobytes().hex(), xxh3=xxh3.tobytes().hex(), size_bytes=int(size_bytes))
        for part, digest, xxh3, size_bytes in zip(
            arrays["files/parts"],
            arrays["files/sha256"],
            arrays["files/xxh3"],
            arrays["files/size_bytes"],
            strict=True,
        )
    }
    if unsafe := [part for part in files if not is_safe_name(part)]:
        raise ValueError(f"{unsafe} cannot name parts of a cache")
    return IndexHead(arrays["plan"].tobytes().hex(), files)


def encoded(texts: list[str]) -> Array:
    """Texts as fixed-length bytes."""
    return np.array([text.encode("utf-8", "surrogateescape") for text in texts], dtype=bytes)


def decoded(value: bytes) -> str:
    """One text of `encoded`."""
    return bytes(value).decode("utf-8", "surrogateescape")


def from_hex(digests: list[str], size: int) -> Array:
    """Hex digests of `size` bytes as (n, size) uint8."""
    return np.frombuffer(bytes.fromhex("".join(digests)), np.uint8).reshape(-1, size)


class _Reading:
    """One file being read; no object is read twice, and all together are no larger than the file.

    Args:
        path: For messages.
        file_bytes: Size of the file.
    """

    def __init__(self, path: Path, file_bytes: int) -> None:
        self._path, self._left = path, file_bytes
        self._seen: set[int] = set()

    def group(self, group: Any, prefix: str = "", skip: str = "") -> dict[str, Array]:
        """The datasets of a group by path."""
        arrays: dict[str, Array] = {}
        for name in group:
            if name == skip:
                continue
            where = f"{prefix}{name}"
            if not isinstance(group.get(name, getlink=True), h5py.HardLink) or len(group.attrs):
                raise self._not_ours(where)
            item: Any = group[name]
            address = h5py.h5o.get_info(item.id).addr
            # Hard links make a few objects look like millions.
            if address in self._seen:
                raise self._not_ours(where)
            self._seen.add(address)
            if isinstance(item, h5py.Group):
                if prefix.count("/") >= _MAX_DEPTH:
                    raise CorruptCacheError(
                        f"{self._path}: groups nested too deeply at {where}; the index is not ours",
                        remedy=Remedy.REBUILD,
                    )
                arrays |= self.group(item, f"{where}/")
                continue
            if not _is_usual(item, self._left):
                raise self._not_ours(where)
            self._left -= item.nbytes
            arrays[where] = item[()]
        return arrays

    def _not_ours(self, where: str) -> CorruptCacheError:
        problem = f"{where} is not what this format writes; the index is not ours"
        return CorruptCacheError(f"{self._path}: {problem}", remedy=Remedy.REBUILD)


def _is_usual(item: Any, file_bytes: int) -> bool:
    return (
        isinstance(item, h5py.Dataset)
        and item.dtype.kind in "iufS"
        and not item.is_virtual
        and item.external is None
        and _filters(item) <= _ALLOWED_FILTERS
        and item.nbytes <= file_bytes
    )


def _filters(dataset: Any) -> set[str]:
    plist = dataset.id.get_create_plist()
    return {plist.get_filter(number)[3].decode("ascii", "replace") for number in range(plist.get_nfilters())}
