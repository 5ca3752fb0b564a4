"""Copying the records of a batch from open files straight into its buffers, with the interpreter free meanwhile."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kdcache.cache.record import RecordField
from kdcache.errors import CorruptCacheError
from kdcache.reading.files import OpenFile, ReadMode, _gather

# What the extension returns besides rows.
_NOT_MAPPED, _OUT_OF_RANGE = -2, -3
_ROWS_AT_ONCE = 8  # of which it names the first when one cannot be read


@dataclass(frozen=True)
class RecordPlaces:
    """Where the records of one column lie: at a constant stride.

    Args:
        starts: (files + 1,) int64, the first sample of each file, and the number of samples.
        fields: What a record consists of, without gaps.
        num_views: K; record number sample * K + view counts through a file.
        stride, first: Record r of a file lies at byte ``r * stride + first``.
    """

    starts: np.ndarray
    fields: Sequence[RecordField]
    num_views: int
    stride: int
    first: int

    def offsets_of(self, rows: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        """(n,) where in its file, of the given (n,) numbers, each (sample, view) begins."""
        records = (rows[:, 0] - self.starts[numbers]) * self.num_views + rows[:, 1]
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
        files: All opened in the same mode.
        count: How many files there are in all.
    """

    def __init__(self, files: Mapping[int, OpenFile], count: int) -> None:
        self.files = files
        is_mapped = bool(files) and all(file.address for file in files.values())
        self.mode: ReadMode = "map" if is_mapped else "read"
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
    if table.mode == "read":
        return _read_records(places, table, rows, into)
    assert _gather is not None
    fields = tuple((field.offset, field.size_bytes, part) for field, part in zip(places.fields, into, strict=True))
    outcome = _gather.gather(rows, places.starts, table.bases, places.num_views, places.stride, places.first, fields)
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


def _read_records(places: RecordPlaces, table: FileTable, rows: np.ndarray, into: Sequence[np.ndarray]) -> list[int]:
    if len(rows) and (rows.min() < 0 or rows[:, 0].max() >= places.starts[-1] or rows[:, 1].max() >= places.num_views):
        raise places.out_of_range()
    numbers = files_of(places.starts, rows)
    missing = _missing(table, numbers)
    if missing:
        return missing
    offsets = places.offsets_of(rows, numbers)
    wanted = sum(part.shape[1] for part in into)
    flat = [(part.reshape(-1).data, part.shape[1]) for part in into]
    buffers = zip(*([view[at : at + size] for at in range(0, len(view), size)] for view, size in flat), strict=True)
    for number, parts, offset in zip(numbers.tolist(), buffers, offsets.tolist(), strict=True):
        table.files[number].read_exactly(parts, offset, wanted)
    return []
