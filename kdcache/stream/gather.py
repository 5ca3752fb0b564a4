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
# What the extension returns besides rows.
_NOT_MAPPED, _OUT_OF_RANGE = -2, -3
_ROWS_AT_ONCE = 8  # of which it names the first when one cannot be read


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
            try:
                file.address = _gather.map_file(file.descriptor, size_bytes)
            except OSError as error:
                raise UsageError(
                    f"{path}: cannot be mapped ({error.strerror}); read it instead: access='read' "
                    "(`--set data.access=read`)"
                ) from None
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
            # Not both: what fadvise reads comes in small pages, what the map reads in huge ones. Old kernels cannot.
            is_there = self.address and _gather is not None and _gather.populate(self.address + first, size)
            if not is_there:
                os.posix_fadvise(self.descriptor, first, size, os.POSIX_FADV_WILLNEED)

    def read_exactly(self, buffers: Sequence[memoryview], offset: int, wanted: int) -> None:
        """Fill the buffers one after the other from one place of the file.

        Args:
            buffers: Where to.
            offset: In the file.
            wanted: Bytes of all buffers together, which callers in a loop know.

        Raises: CorruptCacheError when the file ends before or its disk fails.
        """
        try:
            found = os.preadv(self.descriptor, buffers, offset)
        except OSError as error:
            raise _shrunk(self, offset, f"{error.strerror}, nothing") from None
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


class Interrupted(Exception):
    """Work was broken off because its pass over the data ended; never seen by who waits for a batch."""


@dataclass(frozen=True)
class RecordPlaces:
    """Where the records of one column lie: at a constant stride, or at stated offsets.

    Args:
        starts: (files + 1,) int64, the first sample of each file, and the number of samples.
        fields: What a record consists of, without gaps.
        num_views: K; record number sample * K + view counts through a file.
        stride, first: Record r of a file lies at byte ``r * stride + first``.
        offsets: (samples,) int64 instead of stride and first, for files without them (K is 1 then).
    """

    starts: np.ndarray
    fields: Sequence[RecordField]
    num_views: int = 1
    stride: int = 0
    first: int = 0
    offsets: np.ndarray | None = None

    def offsets_of(self, rows: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        """(n,) where in its file, of the given (n,) numbers, each (sample, view) begins."""
        samples, views = rows[:, 0], rows[:, 1]
        if self.offsets is not None:
            return self.offsets[samples]
        records = (samples - self.starts[numbers]) * self.num_views + views
        return records * self.stride + self.first

    def out_of_range(self) -> IndexError:
        """The error for rows that are not there."""
        return IndexError(f"rows beyond the {self.starts[-1]} samples or the {self.num_views} views")


def files_of(starts: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """(n,) number of the file that holds each (sample, view).

    Args:
        starts: (files + 1,) int64, the first sample of each file, and the number of samples.
        rows: (n, 2) int64.
    """
    return np.searchsorted(starts, rows[:, 0], side="right") - 1


class FileTable:
    """Some open files by number. Whoever holds the table keeps them open.

    Args:
        files: All mapped, or none.
        count: How many files there are in all.
    """

    def __init__(self, files: Mapping[int, OpenFile], count: int) -> None:
        self.files = files
        self.is_mapped = bool(files) and all(file.address for file in files.values())
        self.bases = np.zeros(count, np.int64)
        for number, file in files.items():
            self.bases[number] = file.address


def gather(places: RecordPlaces, table: FileTable, rows: np.ndarray, into: Sequence[np.ndarray]) -> list[int]:
    """Copy records, each to its row of the buffers.

    Args:
        places: Where they lie.
        table: The files that are open.
        rows: (n, 2) int64, contiguous, sample and view numbers.
        into: For each field (n, bytes) uint8, contiguous and writable.

    Returns: numbers of the files that would have to be open too; nothing is promised of the buffers then. Usually
        empty.
    Raises: CorruptCacheError naming the file when it has become shorter or cannot be read, IndexError for rows out of
        range.
    """
    if not table.is_mapped:
        return _read(places, table, rows, into)
    assert _gather is not None
    fields = tuple((field.offset, field.size_bytes, part) for field, part in zip(places.fields, into, strict=True))
    outcome = _gather.gather(
        rows, places.starts, table.bases, places.offsets, places.num_views, places.stride, places.first, fields
    )
    if outcome == _NOT_MAPPED:
        return _missing(table, files_of(places.starts, rows))
    if outcome == _OUT_OF_RANGE:
        raise places.out_of_range()
    if outcome >= 0:
        raise _culprit(places, table, rows[outcome : outcome + _ROWS_AT_ONCE])
    return []


def _culprit(places: RecordPlaces, table: FileTable, rows: np.ndarray) -> CorruptCacheError:
    """The first of these rows whose file is shorter than it was; the first of all when its disk has failed."""
    numbers = files_of(places.starts, rows)
    found = list(zip(numbers.tolist(), places.offsets_of(rows, numbers).tolist(), strict=True))
    shorter = [each for each in found if _is_shorter(table.files[each[0]])]
    number, offset = (shorter or found)[0]
    return _shrunk(table.files[number], offset, "nothing")


def _is_shorter(file: OpenFile) -> bool:
    return os.fstat(file.descriptor).st_size < file.size_bytes


def _missing(table: FileTable, numbers: np.ndarray) -> list[int]:
    return sorted(set(numbers.tolist()) - set(table.files))


def _read(places: RecordPlaces, table: FileTable, rows: np.ndarray, into: Sequence[np.ndarray]) -> list[int]:
    if len(rows) and (rows.min() < 0 or rows[:, 0].max() >= places.starts[-1] or rows[:, 1].max() >= places.num_views):
        raise places.out_of_range()
    numbers = files_of(places.starts, rows)
    missing = _missing(table, numbers)
    if missing:
        return missing
    wanted = sum(part.shape[1] for part in into)
    flat = [(part.reshape(-1).data, part.shape[1]) for part in into]
    buffers = zip(*([view[at : at + size] for at in range(0, len(view), size)] for view, size in flat), strict=True)
    files = [table.files[number] for number in numbers.tolist()]
    for file, parts, offset in zip(files, buffers, places.offsets_of(rows, numbers).tolist(), strict=True):
        file.read_exactly(parts, offset, wanted)
    return []


def _shrunk(file: OpenFile, offset: int, found: str) -> CorruptCacheError:
    return CorruptCacheError(
        f"{file.path}: {found} found for the record at byte {offset}; the file became shorter, or its disk failed, "
        "while it was read. Run `kdcache verify --repair`, then the same `kdcache extract` again"
    )
