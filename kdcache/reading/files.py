"""Open files of a stream, and the two modes in which their records come into batch buffers.

``map``: the files are mapped and a C extension copies with streaming stores. ``read``: one `preadv` a record, where the
extension was not built and for windows that do not fit the memory budget. Both give the same bytes, and a file that
shrinks underneath is reported, not SIGBUS.
"""

import ctypes
import mmap
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple, final, get_args

from kdcache.cancel import CancelToken
from kdcache.errors import CorruptCacheError, Remedy, UsageError
from kdcache.remote import Lease
from kdcache.storage import reading_errors, refusal

try:
    from kdcache.reading import _gather
except ImportError:  # not built: there was no compiler
    _gather = None

ReadMode = Literal["map", "read"]
Access = Literal["auto", "map", "read"]
_POPULATE_BYTES = 16 << 20
_PIECE_BYTES = 4 << 20

# Python's mmap has no populating by parts and does not tell its address.
_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.mmap.restype = ctypes.c_void_p
_LIBC.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
_LIBC.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_LIBC.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_FAILED = ctypes.c_void_p(-1).value
_MADV_HUGEPAGE, _MADV_POPULATE_READ = 14, 22  # Linux 5.14; the numbers are those of every architecture


def choose_access(wanted: Access) -> ReadMode:
    """The mode that will be used: the one wanted, or for ``auto`` the first that is possible of ``map``, ``read``.

    Raises: UsageError when the mode wanted is impossible here, ValueError for other words.
    """
    if wanted not in get_args(Access):
        raise ValueError(f"access must be auto, map or read, got {wanted!r}")
    if wanted == "map" and _gather is None:
        raise UsageError(
            "access='map' needs the C extension, which was not built when kdcache was installed; install a C compiler "
            "and kdcache again, or use access='auto' (slower, the same bytes)"
        )
    if wanted == "auto":
        return "read" if _gather is None else "map"
    return wanted


def describe(mode: ReadMode) -> str:
    """What a user reads about a mode."""
    if mode == "read":
        return "preadv into reused buffers"
    stores = "streaming stores" if _gather is not None and _gather.STREAMING else "memcpy"
    return f"memory map, C gather with {stores}"


def map_file(descriptor: int, size: int) -> int:
    """Map the first bytes of a file read-only, in huge pages where the file system has them.

    Returns: the address.
    Raises: OSError.
    """
    address = _LIBC.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, descriptor, 0)
    if address is None or address == _FAILED:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    _LIBC.madvise(address, size, _MADV_HUGEPAGE)  # advice: where it cannot be followed nothing is lost
    return address


def populate(address: int, size: int) -> bool:
    """Read mapped pages and enter them into the page table, so that later touches find them there.

    Returns: False where this system cannot do that, or the file has become shorter.
    """
    return _LIBC.madvise(address, size, _MADV_POPULATE_READ) == 0


class Identity(NamedTuple):
    """What changes when somebody writes to a file, cuts it or puts another in its place.

    A write through a map counts at the latest when the kernel writes it back, and one within the tick of the kernel's
    clock (1 to 10 ms) that the file was last written in does not show.
    """

    device: int
    inode: int
    size_bytes: int
    modified_ns: int
    changed_ns: int


def _identity(descriptor: int) -> Identity:
    found = os.fstat(descriptor)
    return Identity(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


@final
@dataclass
class OpenFile:
    """A file open for reading, mapped or not; closed when the last user is gone.

    Args:
        path: For messages.
        descriptor: Owned by this object.
        size_bytes: As checked when it was opened.
        mode: How records of it are read.
        address: Where it is mapped, 0 if it is not. Nobody but the gather may touch what lies there.
        lease: Keeps a file that was fetched from object storage.
    """

    path: Path
    descriptor: int
    size_bytes: int
    mode: ReadMode
    address: int = 0
    lease: Lease | None = None
    identity: Identity = field(init=False)

    def __post_init__(self) -> None:
        self.identity = _identity(self.descriptor)

    @classmethod
    def open(cls, path: Path, size_bytes: int, mode: ReadMode, lease: Lease | None = None) -> "OpenFile":
        """Open, and map unless it is to be read; symbolic links are refused.

        Raises: CorruptCacheError when it is not there, StorageError when it cannot be opened, UsageError when it cannot
            be mapped.
        """
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK  # a pipe is not waited for
        try:
            descriptor = os.open(path, flags)
        except FileNotFoundError:
            raise CorruptCacheError(f"{path}: vanished while the cache was in use", remedy=Remedy.REPAIR) from None
        except OSError as error:
            raise refusal(error, "open", path) from None
        file = cls(path, descriptor, size_bytes, mode, lease=lease)
        if mode == "map" and size_bytes:
            try:
                file.address = map_file(file.descriptor, size_bytes)
            except OSError as error:
                raise UsageError(
                    f"{path}: cannot be mapped ({error.strerror}); read it instead: access='read'"
                ) from None
        return file

    def is_changed(self) -> bool:
        """Whether somebody has written to the file, or cut it, since it was opened or renewed."""
        return _identity(self.descriptor) != self.identity

    def renew(self) -> None:
        """Take the file as it is now for what it was. Raises: CorruptCacheError where its size is another."""
        identity = _identity(self.descriptor)
        if identity.size_bytes != self.size_bytes:
            raise CorruptCacheError(
                f"{self.path}: has {identity.size_bytes} bytes, {self.size_bytes} when it was opened; the file became "
                f"{'shorter' if identity.size_bytes < self.size_bytes else 'longer'} while it was in use",
                remedy=Remedy.REPAIR,
            )
        self.identity = identity

    def pieces(self) -> Iterator[memoryview]:
        """The bytes of the file, piece by piece; each piece is valid until the next is asked for."""
        buffer = memoryview(bytearray(_PIECE_BYTES))
        offset = 0
        while True:
            with reading_errors(self.path):
                size = os.preadv(self.descriptor, [buffer], offset)
            if not size:
                return
            yield buffer[:size]
            offset += size

    @property
    def mapped_bytes(self) -> int:
        """Bytes that are mapped."""
        return self.size_bytes if self.address else 0

    def __del__(self) -> None:
        if self.address:
            _LIBC.munmap(self.address, self.size_bytes)
        os.close(self.descriptor)

    def populate(self, cancel: CancelToken) -> None:
        """Bring the whole file into memory and into the page table, piece by piece until it is cancelled."""
        for first in range(0, self.size_bytes, _POPULATE_BYTES):
            if cancel.cancelled:
                return
            size = min(_POPULATE_BYTES, self.size_bytes - first)
            # Not both: what fadvise reads comes in small pages, what the map reads in huge ones. Old kernels cannot.
            if not (self.address and populate(self.address + first, size)):
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
            if 0 < found < wanted:
                found = self._read_on(buffers, offset, found)
        except OSError as error:
            raise self.shrunk(offset, f"{error.strerror}, nothing") from None
        if found != wanted:
            raise self.shrunk(offset, f"{found} of {wanted} bytes")

    def _read_on(self, buffers: Sequence[memoryview], offset: int, found: int) -> int:
        """Some network file systems give less than is asked for and there."""
        while True:
            left, skip = list(buffers), found
            while left and skip >= len(left[0]):
                skip -= len(left.pop(0))
            if not left:
                return found
            more = os.preadv(self.descriptor, [left[0][skip:], *left[1:]], offset + found)
            if more == 0:
                return found
            found += more

    def shrunk(self, offset: int, found: str) -> CorruptCacheError:
        """The error for a record that is not there any more.

        Args:
            offset: Where it began.
            found: What was there instead.
        """
        return CorruptCacheError(
            f"{self.path}: {found} found for the record at byte {offset}; the file became shorter, or its disk failed, "
            "while it was read",
            remedy=Remedy.REPAIR,
        )
