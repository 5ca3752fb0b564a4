"""Tars open for reading, a bounded number at a time; compressed ones are unpacked behind one another into one file."""

import bz2
import errno
import gzip
import lzma
import os
import tempfile
import threading
import zlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, final

from kdcache.errors import DiskFullError, SourceError
from kdcache.forks import renew_after_fork
from kdcache.images.kinds import packing_of
from kdcache.images.remote_tars import RemoteTar, TarFile
from kdcache.remote import Lease

MAX_COMPRESSION_RATIO = 200
_PIECE_BYTES = 1 << 20
# Far below the 1,024 files that a process may have open on most machines, of which readers and writers need theirs.
_MAX_OPEN = 16
# Of those on object storage: at the end of one tar reading goes over into the next.
_MAX_FETCHED = 2
_Packed = gzip.GzipFile | bz2.BZ2File | lzma.LZMAFile
_OPENERS: dict[str, Callable[[Path], _Packed]] = {"gzip": gzip.GzipFile, "bzip2": bz2.BZ2File, "xz": lzma.LZMAFile}
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@final
class _Descriptor:
    """An open file, closed when the last one that uses it lets it go."""

    def __init__(self, number: int, lease: Lease | None = None) -> None:
        self.number = number
        self._lease = lease

    def __del__(self) -> None:
        os.close(self.number)


@final
class Archives:
    """Reads pieces of tars by number; safe from several threads, and in another process, which opens its own files.

    Args:
        paths: Regular files, plain or compressed tars; or plain ones on object storage, of which few are here at once.
    """

    def __init__(self, paths: Sequence[TarFile]) -> None:
        self.paths = list(paths)
        self._set_up()

    def renew(self) -> None:
        """See Renewable: the spool's position is shared with the parent, so that this process writes into another."""
        self._lock = threading.Lock()
        self._spool: _Descriptor | None = None

    def _set_up(self) -> None:
        # A spool is a file without a name, so that nothing stays behind, whatever ends this process.
        self.renew()
        renew_after_fork(self)
        self._packings: dict[int, str] = {}
        self._open: OrderedDict[int, _Descriptor] = OrderedDict()
        # By number of a compressed tar: its spool, where it begins there, and its size.
        self._unpacked: dict[int, tuple[_Descriptor, int, int]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"paths": self.paths}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.paths = state["paths"]
        self._set_up()

    def size(self, number: int) -> int:
        """Bytes of a tar, unpacked.

        Raises: SourceError, DiskFullError as `read`.
        """
        with self._lock:
            descriptor, _ = self._locate(number)
            unpacked = self._unpacked.get(number)
        return unpacked[2] if unpacked else os.fstat(descriptor.number).st_size

    def read(self, number: int, offset: int, size: int) -> bytes:
        """A piece of a tar; shorter where the tar ends.

        Raises: SourceError for a tar that cannot be opened or unpacked, DiskFullError where there is no room for that.
        """
        with self._lock:
            descriptor, start = self._locate(number)
        # The descriptor stays open while this thread holds it.
        try:
            return os.pread(descriptor.number, size, start + offset)
        except OSError as error:
            raise SourceError(f"{self.paths[number]}: cannot be read ({error.strerror})") from None

    def _locate(self, number: int) -> tuple[_Descriptor, int]:
        path = self.paths[number]
        if isinstance(path, RemoteTar):
            return self._fetched(number, path), 0
        if number not in self._packings:
            self._packings[number] = packing_of(path)
        if packing := self._packings[number]:
            if number not in self._unpacked:
                spool = self._spool = self._spool or _open_spool(path)
                self._unpacked[number] = spool, *_unpack(path, packing, spool.number)
            return self._unpacked[number][:2]
        if number not in self._open:
            try:
                self._open[number] = _Descriptor(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
            except OSError as error:
                raise SourceError(f"{path}: cannot be opened ({error.strerror})") from None
        self._open.move_to_end(number)
        while len(self._open) > _MAX_OPEN:
            self._open.popitem(last=False)
        return self._open[number], 0

    def _fetched(self, number: int, tar: RemoteTar) -> _Descriptor:
        if number not in self._open:
            # Others make room first: what is open here is not removed.
            while len(self._open) >= _MAX_FETCHED:
                self._open.popitem(last=False)
            lease = tar.hold()
            if packing := packing_of(lease.path):
                raise SourceError(
                    f"{tar}: is compressed by {packing}; on object storage plain tars are read, unpack it"
                )
            self._open[number] = _Descriptor(os.open(lease.path, os.O_RDONLY | os.O_CLOEXEC), lease)
        self._open.move_to_end(number)
        return self._open[number]


def _open_spool(path: Path) -> _Descriptor:
    try:
        with tempfile.TemporaryFile() as file:
            return _Descriptor(os.dup(file.fileno()))
    except OSError as error:
        raise _no_room(path, error) from None


def _unpack(path: Path, packing: str, spool: int) -> tuple[int, int]:
    """Unpack a tar behind what the spool holds; returns where it begins, and its size."""
    limit = path.stat().st_size * MAX_COMPRESSION_RATIO
    start = end = os.lseek(spool, 0, os.SEEK_END)
    with _OPENERS[packing](path) as packed:
        while piece := memoryview(_next_piece(packed, path)):
            if end + len(piece) - start > limit:
                raise SourceError(f"{path}: unpacks to over {MAX_COMPRESSION_RATIO} times its size; no image tar")
            while piece:
                try:
                    written = os.write(spool, piece)
                except OSError as error:
                    raise _no_room(path, error) from None
                piece = piece[written:]
                end += written
    return start, end - start


def _next_piece(packed: _Packed, path: Path) -> bytes:
    try:
        return packed.read(_PIECE_BYTES)
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise SourceError(f"{path}: truncated or damaged ({error}); fetch it again") from None


def _no_room(path: Path, error: OSError) -> Exception:
    """Of the temporary file, not of the archive."""
    folder = tempfile.gettempdir()
    if error.errno in _NO_ROOM:
        return DiskFullError(
            f"{path}: no room to unpack it in {folder} ({error.strerror}); make room, set TMPDIR to a folder on "
            "another disk, or unpack it yourself and pass the plain tar"
        )
    return SourceError(f"{path}: cannot be unpacked into {folder} ({error.strerror}); set TMPDIR to another folder")
