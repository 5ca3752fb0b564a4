"""System calls that Python has no functions for: maps by address, and copies out of them that raise no signal."""

import ctypes
import errno
import functools
import mmap
import os
from collections.abc import Sequence

import numpy as np

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.mmap.restype = ctypes.c_void_p
_LIBC.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
_LIBC.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_LIBC.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_HAS_COPY = hasattr(_LIBC, "process_vm_readv") and ctypes.sizeof(ctypes.c_void_p) == 8
if _HAS_COPY:
    _PIECES = (ctypes.c_void_p, ctypes.c_ulong)
    _LIBC.process_vm_readv.argtypes = (ctypes.c_int, *_PIECES, *_PIECES, ctypes.c_ulong)
    _LIBC.process_vm_readv.restype = ctypes.c_ssize_t
_FAILED = ctypes.c_void_p(-1).value
_MADV_HUGEPAGE, _MADV_POPULATE_READ = 14, 22  # Linux 5.14; the numbers are those of every architecture
_MOST_PIECES = 1024  # of one call, on either side
_MOST_BYTES = 1 << 30  # a call stops at 2 GiB


def map_file(descriptor: int, size: int) -> int:
    """Map the first bytes of a file read-only, in huge pages where the file system has them.

    Returns: the address.
    Raises: OSError.
    """
    address = _LIBC.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, descriptor, 0)
    if address is None or address == _FAILED:
        raise _last_error()
    _LIBC.madvise(address, size, _MADV_HUGEPAGE)  # advice: where it cannot be followed nothing is lost
    return address


def unmap(address: int, size: int) -> None:
    """Undo `map_file`. Raises: OSError."""
    if _LIBC.munmap(address, size):
        raise _last_error()


def populate(address: int, size: int) -> bool:
    """Read mapped pages and enter them into the page table, so that later touches find them there.

    Returns: False where this system cannot do that, or the file has become shorter.
    """
    return _LIBC.madvise(address, size, _MADV_POPULATE_READ) == 0


@functools.cache
def can_copy() -> bool:
    """Whether `copy` works here: a few containers forbid it, and only Linux has it."""
    if not _HAS_COPY:
        return False
    source, found = np.arange(8, dtype=np.uint8), np.zeros((1, 8), np.uint8)
    try:
        return copy(np.array([source.ctypes.data]), [found]) == 1 and bool((found[0] == source).all())
    except OSError:
        return False


def copy(addresses: np.ndarray, into: Sequence[np.ndarray]) -> int:
    """Copy records from mapped files, as the kernel reads another process: what cannot be read is no signal.

    Args:
        addresses: (n,) int64, where each record begins.
        into: For each field of a record, one after the other, (n, bytes) uint8, contiguous and writable.

    Returns: how many records were copied, n unless one could not be read.
    Raises: OSError when the kernel forbids it.
    """
    sizes = [part.shape[1] for part in into]
    wanted = sum(sizes)
    if not wanted or not len(addresses):
        return len(addresses)
    records = np.empty((len(addresses), 2), np.int64)
    records[:, 0], records[:, 1] = addresses, wanted
    pieces = np.empty((len(addresses), len(into), 2), np.int64)
    for number, (part, size) in enumerate(zip(into, sizes, strict=True)):
        pieces[:, number, 0] = part.ctypes.data + np.arange(len(part)) * size
        pieces[:, number, 1] = size
    at_once = max(1, min(_MOST_PIECES // len(into), _MOST_BYTES // wanted))
    process = os.getpid()
    for first in range(0, len(addresses), at_once):
        count = min(at_once, len(addresses) - first)
        found = _LIBC.process_vm_readv(
            process, pieces[first:].ctypes.data, count * len(into), records[first:].ctypes.data, count, 0
        )
        if found < 0 and ctypes.get_errno() != errno.EFAULT:
            raise _last_error()
        if found != count * wanted:
            return first + max(found, 0) // wanted
    return len(addresses)


def _last_error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))
