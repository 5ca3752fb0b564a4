"""How fast a folder's disk takes and gives records: written and read for a moment, then removed."""

import os
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kdcache.errors import StorageError

_MOST_BYTES = 256 << 20
_FEWEST_RECORDS = 4
# Of what is free.
_MOST_OF_FREE = 0.1


@dataclass(frozen=True)
class DiskRates:
    """Bytes a second of one disk.

    Args:
        write_bytes_per_s: One record after the other, until they are on the disk.
        read_bytes_per_s: Records in random order, after the system was asked to forget them; a file system that does
            not forget reads from memory.
    """

    write_bytes_per_s: float
    read_bytes_per_s: float


def disk_rates(folder: Path, record_bytes: int, *, seconds: float) -> DiskRates:
    """Measure.

    Args:
        folder: Is there; a temporary file is made in it.
        record_bytes: Of one record with its header.
        seconds: For each of the two, unless a quarter of a gigabyte is through before.

    Raises: StorageError.
    """
    room = int(min(_MOST_BYTES, _MOST_OF_FREE * shutil.disk_usage(folder).free))
    count = max(_FEWEST_RECORDS, room // record_bytes)
    record = np.random.default_rng(0).integers(0, 256, record_bytes, np.uint8).tobytes()
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            written, write_s = _write(file.fileno(), record, count, seconds)
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            read, read_s = _read(file.fileno(), record_bytes, written, seconds)
    except OSError as error:
        raise StorageError(f"{folder}: no record can be written and read there ({error.strerror})") from None
    return DiskRates(written * record_bytes / write_s, read * record_bytes / read_s)


def _write(file: int, record: bytes, count: int, seconds: float) -> tuple[int, float]:
    written, began = 0, time.perf_counter()
    while written < count and (written < _FEWEST_RECORDS or time.perf_counter() - began < seconds):
        view = memoryview(record)
        while view:
            view = view[os.write(file, view) :]
        written += 1
    os.fsync(file)
    return written, time.perf_counter() - began


def _read(file: int, record_bytes: int, count: int, seconds: float) -> tuple[int, float]:
    read, began = 0, time.perf_counter()
    for number in np.random.default_rng(1).permutation(count).tolist():
        os.pread(file, record_bytes, number * record_bytes)
        read += 1
        if time.perf_counter() - began > seconds:
            break
    return read, time.perf_counter() - began
