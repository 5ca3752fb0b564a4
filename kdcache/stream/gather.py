"""Copying records from files straight into batch buffers, with the interpreter free meanwhile.

Two ways give the same bytes. ``map``: the files are mapped and a C extension copies with streaming stores; a file that
shrinks underneath is reported, not SIGBUS. ``read``: one `preadv` a record, for machines without a compiler and for
windows that do not fit the memory budget.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from kdcache.cache.record import RecordField
from kdcache.errors import CorruptCacheError, UsageError

try:
    from kdcache.stream import _gather
except ImportError:  # not built: there was no compiler
    _gather = None

Access = Literal["auto", "map", "read"]
_POPULATE_BYTES = 16 << 20


def choose_access(wanted: Access) -> Literal["map", "read"]:
    """The way that will be taken: ``map`` where the extension was built, unless ``read`` is wanted.

    Raises: UsageError when ``map`` is wanted and the extension is not there, ValueError for other words.
    """
    if wanted not in get_args(Access):
        raise ValueError(f"access must be auto, map or read, got {wanted!r}")
    if wanted == "map" and _gather is None:
        raise UsageError(
            "access='map' needs the C extension, which was not built when kdcache was installed; install a C compiler "
            "and kdcache again, or use access='auto' (slower, the same bytes)"
        )
    return "read" if wanted == "read" or _gather is None else "map"


def describe(access: Literal["map", "read"]) -> str:
    """What a user reads about a way."""
    if access == "read":
        return "preadv into reused buffers"
    stores = "streaming stores" if _gather is not None and _gather.STREAMING else "memcpy"
    return f"memory map, C gather with {stores}"


@dataclass
class OpenFile:
    """A file open for reading, mapped or not; closed when the last user is gone.

    Args:
        path: For messages.
        descriptor: Owned by this object.
        size_bytes: As checked when it was opened.
        address: Where it is mapped, 0 if it is not. Nobody but the gather may touch what lies there.
    """

    path: Path
    descriptor: int
    size_bytes: int
    address: int = 0

    @classmethod
    def open(cls, path: Path, size_bytes: int, *, mapped: bool) -> "OpenFile":
        """Open, and map if asked; symbolic links are refused.

        Raises: CorruptCacheError when it cannot be opened, UsageError when the process has too many files open.
        """
        try:
            file = cls(path, os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW), size_bytes)
        except FileNotFoundError:
            raise CorruptCacheError(f"{path}: vanished while the cache was in use; run `kdcache verify`") from None
        except OSError as error:
            raise UsageError(
                f"{path}: cannot be opened ({error.strerror}); if too many files are open, allow more (`ulimit -n`) or "
                "use a smaller window"
            ) from None
        if mapped and size_bytes:
            assert _gather is not None
            file.address = _gather.map_file(file.descriptor, size_bytes)
        return file

    @property
    def mapped_bytes(self) -> int:
        """Bytes that are mapped."""
        return self.size_bytes if self.address else 0

    def __del__(self) -> None:
        if self.address and _gather is not None:
            _gather.unmap(self.address, self.size_bytes)
        os.close(self.descriptor)

    def populate(self, keep_on: "KeepOn") -> None:
        """Bring the whole file into memory and into the page table, piece by piece while `keep_on` says so."""
        for first in range(0, self.size_bytes, _POPULATE_BYTES):
            if not keep_on:
                return
            size = min(_POPULATE_BYTES, self.size_bytes - first)
            # One or the other: what fadvise reads comes in small pages, what the map reads in huge ones.
            if self.address and _gather is not None:
                _gather.populate(self.address + first, size)
            else:
                os.posix_fadvise(self.descriptor, first, size, os.POSIX_FADV_WILLNEED)

    def read_exactly(self, buffers: Sequence[memoryview], offset: int) -> None:
        """Fill the buffers one after the other from one place of the file.

        Raises: CorruptCacheError when the file ends before.
        """
        wanted = sum(len(buffer) for buffer in buffers)
        found = os.preadv(self.descriptor, buffers, offset)
        if found != wanted:
            raise _shrunk(self, offset, f"{found} of {wanted} bytes")


class KeepOn:
    """Whether background work should go on: true until `stop`."""

    def __init__(self) -> None:
        self._stopped = False

    def __bool__(self) -> bool:
        return not self._stopped

    def stop(self) -> None:
        """Ask for an end."""
        self._stopped = True


def gather(
    files: Mapping[int, OpenFile],
    which: np.ndarray,
    offsets: np.ndarray,
    fields: Sequence[RecordField],
    into: Sequence[np.ndarray],
) -> None:
    """Copy records, each to its row of the buffers.

    Args:
        files: By number; all mapped, or none.
        which: (n,) numbers of the files that hold the records.
        offsets: (n,) where in the file its payload starts, int64.
        fields: What a payload consists of, without gaps.
        into: For each field (n, bytes) uint8, contiguous and writable.

    Raises: CorruptCacheError naming the file when it has become shorter or cannot be read.
    """
    if not all(file.address for file in files.values()):
        _read(files, which, offsets, into)
        return
    assert _gather is not None
    bases = np.zeros(max(files) + 1, np.int64)
    for number, file in files.items():
        bases[number] = file.address
    sources = bases[which] + offsets
    parts = tuple((field.offset, field.size_bytes, rows) for field, rows in zip(fields, into, strict=True))
    failed = _gather.gather(sources, parts)
    if failed >= 0:
        raise _shrunk(files[int(which[failed])], int(offsets[failed]), "nothing")


def _read(files: Mapping[int, OpenFile], which: np.ndarray, offsets: np.ndarray, into: Sequence[np.ndarray]) -> None:
    wanted = sum(rows.shape[1] for rows in into)
    flat = [(rows.reshape(-1).data, rows.shape[1]) for rows in into]
    rows = zip(*([view[at : at + size] for at in range(0, len(view), size)] for view, size in flat), strict=True)
    descriptors = [files[number].descriptor for number in which.tolist()]
    preadv = os.preadv
    for row, (descriptor, buffers, offset) in enumerate(zip(descriptors, rows, offsets.tolist(), strict=True)):
        found = preadv(descriptor, buffers, offset)
        if found != wanted:
            raise _shrunk(files[int(which[row])], offset, f"{found} of {wanted} bytes")


def _shrunk(file: OpenFile, offset: int, found: str) -> CorruptCacheError:
    return CorruptCacheError(
        f"{file.path}: {found} found for the record at byte {offset}; the file became shorter, or its disk failed, "
        "while it was read. Run `kdcache verify --repair`, then the same `kdcache extract` again"
    )
