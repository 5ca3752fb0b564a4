"""Open files of a stream, and the ways their records come into batch buffers.

``map``: the files are mapped and a C extension copies with streaming stores. ``kernel``: they are mapped and the kernel
copies a batch in one call, for machines without a compiler. ``read``: one `preadv` a record, for windows that do not
fit the memory budget. All give the same bytes, and a file that shrinks underneath is reported, not SIGBUS.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from kdcache.errors import CorruptCacheError, UsageError
from kdcache.stream import syscalls

try:
    from kdcache.stream import _gather
except ImportError:  # not built: there was no compiler
    _gather = None

Way = Literal["map", "kernel", "read"]
Access = Literal["auto", "map", "kernel", "read"]
_POPULATE_BYTES = 16 << 20


def choose_access(wanted: Access) -> Way:
    """The way that will be taken: unless one is wanted, the first that is possible of ``map``, ``kernel``, ``read``.

    Raises: UsageError when the way wanted is impossible here, ValueError for other words.
    """
    if wanted not in get_args(Access):
        raise ValueError(f"access must be auto, map, kernel or read, got {wanted!r}")
    if wanted == "map" and _gather is None:
        raise UsageError(
            "access='map' needs the C extension, which was not built when kdcache was installed; install a C compiler "
            "and kdcache again, or use access='auto' (slower, the same bytes)"
        )
    if wanted == "kernel" and not syscalls.can_copy():
        raise UsageError(
            "access='kernel' needs Linux and leave to call process_vm_readv, which a container can forbid; use "
            "access='auto'"
        )
    if wanted != "auto":
        return wanted
    if _gather is not None:
        return "map"
    return "kernel" if syscalls.can_copy() else "read"


def describe(way: Way) -> str:
    """What a user reads about a way."""
    if way == "read":
        return "preadv into reused buffers"
    if way == "kernel":
        return "memory map, copied by the kernel (process_vm_readv)"
    stores = "streaming stores" if _gather is not None and _gather.STREAMING else "memcpy"
    return f"memory map, C gather with {stores}"


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


@dataclass
class OpenFile:
    """A file open for reading, mapped or not; closed when the last user is gone.

    Args:
        path: For messages.
        descriptor: Owned by this object.
        size_bytes: As checked when it was opened.
        way: How records of it are copied.
        address: Where it is mapped, 0 if it is not. Nobody but the gather may touch what lies there.
    """

    path: Path
    descriptor: int
    size_bytes: int
    way: Way
    address: int = 0

    @classmethod
    def open(cls, path: Path, size_bytes: int, way: Way) -> "OpenFile":
        """Open, and map unless it is to be read; symbolic links are refused.

        Raises: CorruptCacheError when it cannot be opened, UsageError when the process has too many files open.
        """
        try:
            file = cls(path, os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW), size_bytes, way)
        except FileNotFoundError:
            raise CorruptCacheError(f"{path}: vanished while the cache was in use; run `kdcache verify`") from None
        except OSError as error:
            raise UsageError(
                f"{path}: cannot be opened ({error.strerror}); if too many files are open, allow more (`ulimit -n`) or "
                "use a smaller window"
            ) from None
        if way != "read" and size_bytes:
            try:
                file.address = syscalls.map_file(file.descriptor, size_bytes)
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
        if self.address:
            syscalls.unmap(self.address, self.size_bytes)
        os.close(self.descriptor)

    def populate(self, keep_on: KeepOn) -> None:
        """Bring the whole file into memory and into the page table, piece by piece while `keep_on` says so."""
        for first in range(0, self.size_bytes, _POPULATE_BYTES):
            if not keep_on:
                return
            size = min(_POPULATE_BYTES, self.size_bytes - first)
            # Not both: what fadvise reads comes in small pages, what the map reads in huge ones. Old kernels cannot.
            if not (self.address and syscalls.populate(self.address + first, size)):
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
            "while it was read. Run `kdcache verify --repair`, then the same `kdcache extract` again"
        )
