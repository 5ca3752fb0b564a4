"""Copying the records of a batch from open files straight into its buffers, with the interpreter free meanwhile."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kdcache.cache.record import RecordField
from kdcache.errors import CorruptCacheError
from kdcache.stream import syscalls
from kdcache.stream.files import OpenFile, Way, _gather

# What the extension returns besides rows.
_NOT_MAPPED, _OUT_OF_RANGE = -2, -3
_ROWS_AT_ONCE = 8  # of which it names the first when one cannot be read


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
        files: All opened for the same way.
        count: How many files there are in all.
    """

    def __init__(self, files: Mapping[int, OpenFile], count: int) -> None:
        self.files = files
        is_mapped = bool(files) and all(file.address for file in files.values())
        self.way: Way = next(iter(files.values())).way if is_mapped else "read"
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
    if table.way != "map":
        return _gather_plainly(places, table, rows, into)
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
    return table.files[number].shrunk(offset, "nothing")


def _is_shorter(file: OpenFile) -> bool:
    return os.fstat(file.descriptor).st_size < file.size_bytes


def _missing(table: FileTable, numbers: np.ndarray) -> list[int]:
    return sorted(set(numbers.tolist()) - table.files.keys())


def _gather_plainly(places: RecordPlaces, table: FileTable, rows: np.ndarray, into: Sequence[np.ndarray]) -> list[int]:
    if len(rows) and (rows.min() < 0 or rows[:, 0].max() >= places.starts[-1] or rows[:, 1].max() >= places.num_views):
        raise places.out_of_range()
    numbers = files_of(places.starts, rows)
    missing = _missing(table, numbers)
    if missing:
        return missing
    offsets = places.offsets_of(rows, numbers)
    if table.way == "kernel":
        copied = syscalls.copy(table.bases[numbers] + offsets, into)
        if copied < len(rows):
            raise table.files[int(numbers[copied])].shrunk(int(offsets[copied]), "nothing")
        return []
    wanted = sum(part.shape[1] for part in into)
    flat = [(part.reshape(-1).data, part.shape[1]) for part in into]
    buffers = zip(*([view[at : at + size] for at in range(0, len(view), size)] for view, size in flat), strict=True)
    for number, parts, offset in zip(numbers.tolist(), buffers, offsets.tolist(), strict=True):
        table.files[number].read_exactly(parts, offset, wanted)
    return []
