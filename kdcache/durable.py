"""Files that are whole or absent, whatever kills the process, the disk or the power.

The order is the promise: write to a unique temporary name in the same folder, fsync the file, give it its final name,
fsync the folder. Only then may another file name this one.
"""

import contextlib
import errno
import hashlib
import os
import re
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import xxhash

from kdcache.errors import ShardConflictError
from kdcache.storage import entries, open_regular, read_regular, reading_errors, storage_errors

# Tests set this to kill or fail the process between any two steps: (step, final path) -> None.
on_step: Callable[[str, Path], None] | None = None

TEMPORARY_SUFFIX = ".tmp"
_PIECE_BYTES = 4 << 20
# A temporary of another machine whose process cannot be probed is garbage once it is this old.
FOREIGN_TEMPORARY_LIFETIME_S = 6 * 3600
_TEMPORARY = re.compile(rf"\..+\.(?P<host>[^.]*)\.(?P<pid>\d{{1,9}})\.[0-9a-f]+{re.escape(TEMPORARY_SUFFIX)}")
_NO_HARD_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS)


class NewFile:
    """A file being written under a temporary name; `commit` makes it appear, leaving the block without it removes it.

    Args:
        path: The final name; its folder must exist.
        replace: True lets the last writer win (checkpoints, manifests). False lets the first win: a later writer with
            the same bytes succeeds quietly, with other bytes it raises ShardConflictError.

    Raises: DiskFullError, NotWritableError, ShardConflictError.
    """

    def __init__(self, path: Path, *, replace: bool = False) -> None:
        self.path = path
        self.replace = replace
        self.size_bytes = 0
        self._sha256 = hashlib.sha256()
        self._xxh3 = xxhash.xxh3_64()
        self._temporary = path.with_name(_temporary_name(path.name))
        with storage_errors(path, "create"):
            descriptor = os.open(self._temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        self._file: BinaryIO = os.fdopen(descriptor, "wb", buffering=1 << 20)
        _step("opened", path)

    @property
    def sha256(self) -> str:
        """Hex digest of everything written so far."""
        return self._sha256.hexdigest()

    @property
    def xxh3(self) -> str:
        """Hex digest (64 bits) of everything written so far."""
        return self._xxh3.hexdigest()

    def write(self, data: bytes | memoryview) -> None:
        """Append bytes.

        Raises: DiskFullError with what is needed and what is free.
        """
        with storage_errors(self.path, "write", needed_bytes=len(data)):
            self._file.write(data)
        self._sha256.update(data)
        self._xxh3.update(data)
        self.size_bytes += len(data)

    def commit(self) -> None:
        """Make the bytes durable and give them their final name."""
        with storage_errors(self.path, "flush"):
            self._file.flush()
            _step("written", self.path)
            os.fsync(self._file.fileno())
            if not self.replace:
                os.fchmod(self._file.fileno(), os.fstat(self._file.fileno()).st_mode & 0o7444)
            self._file.close()
            _step("fsynced", self.path)
            if self.replace:
                self._temporary.replace(self.path)
            else:
                self._publish_first_wins()
            _step("renamed", self.path)
            fsync_folder(self.path.parent)
        _step("committed", self.path)

    def _publish_first_wins(self) -> None:
        try:
            os.link(self._temporary, self.path)
        except FileExistsError:
            self._compare_with_winner()
        except OSError as error:
            if error.errno not in _NO_HARD_LINKS:
                raise
            if self.path.exists():
                self._compare_with_winner()
            else:
                self._temporary.rename(self.path)
                return
        self._temporary.unlink()

    def _compare_with_winner(self) -> None:
        winner = sha256_file(self.path)
        if winner != self.sha256:
            raise ShardConflictError(
                f"{self.path}: another worker wrote sha256 {winner[:12]}… and this one {self.sha256[:12]}… for the "
                "same plan; the first was kept. Check that all workers run the same versions on the same kind of device"
            )

    def __enter__(self) -> "NewFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Closing may fail again on a full disk; the file is garbage either way.
        with contextlib.suppress(OSError):
            self._file.close()
        with contextlib.suppress(OSError):
            self._temporary.unlink()


def write_file(path: Path, data: bytes, *, replace: bool = True) -> str:
    """Write a small file durably and return its sha256."""
    with NewFile(path, replace=replace) as file:
        file.write(data)
        file.commit()
    return file.sha256


def write_changed(path: Path, data: bytes) -> None:
    """Write a small file durably, unless it holds these bytes already: then nothing is touched."""
    if not (path.is_file() and read_regular(path) == data):
        write_file(path, data)


def file_pieces(path: Path) -> Iterator[memoryview]:
    """The bytes of a file, piece by piece; each piece is valid until the next is asked for."""
    buffer = memoryview(bytearray(_PIECE_BYTES))
    with open_regular(path) as file:
        while True:
            with reading_errors(path):
                size = file.readinto(buffer)
            if not size:
                return
            yield buffer[:size]


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file's bytes, read in pieces."""
    digest = hashlib.sha256()
    for piece in file_pieces(path):
        digest.update(piece)
    return digest.hexdigest()


def fsync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    with storage_errors(folder, "flush"):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Create a folder (and its parents) and prove that files can be created in it.

    Raises: NotWritableError.
    """
    with storage_errors(folder, "create"):
        folder.mkdir(parents=True, exist_ok=True)
    with storage_errors(folder, "write into"):
        probe = folder / _temporary_name("probe")
        probe.touch(exist_ok=False)
        probe.unlink()


def remove_stale_temporaries(folder: Path) -> list[Path]:
    """Remove temporary files whose writers are gone and return their names.

    A temporary of this machine is stale when its process is dead, one of another machine when it is hours old.
    """
    removed: list[Path] = []
    for path in entries(folder):
        match = _TEMPORARY.fullmatch(path.name)
        # What is not named so, or is a folder, is somebody else's.
        if match is None or path.is_dir():
            continue
        with storage_errors(path, "remove"), contextlib.suppress(FileNotFoundError):
            if match["host"] == _host():
                stale = not _is_alive(int(match["pid"]))
            else:
                stale = time.time() - path.lstat().st_mtime > FOREIGN_TEMPORARY_LIFETIME_S
            if stale:
                path.unlink()
                removed.append(path)
    return removed


def remove(path: Path) -> None:
    """Remove a file if it is there. Raises: NotWritableError, StorageError."""
    with storage_errors(path, "remove"):
        path.unlink(missing_ok=True)


def _temporary_name(name: str) -> str:
    return f".{name}.{_host()}.{os.getpid()}.{secrets.token_hex(4)}{TEMPORARY_SUFFIX}"


def _host() -> str:
    return socket.gethostname().replace(".", "-")[:40]


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _step(name: str, path: Path) -> None:
    if on_step is not None:
        on_step(name, path)


def append_line(path: Path, line: bytes) -> None:
    """Add one line to a log that several processes may write; a crash can lose or cut the last line only."""
    with storage_errors(path, "append to", needed_bytes=len(line)):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        try:
            os.write(descriptor, line)
        finally:
            os.close(descriptor)
