"""The boundary to the file system: ordinary files only, and refusals as errors with path, operation and remedy."""

import contextlib
import errno
import os
import shutil
import stat
from collections.abc import Generator
from io import FileIO
from pathlib import Path

from kdcache.errors import CorruptCacheError, DiskFullError, NotWritableError, Remedy, StorageError

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_PERMISSION = (
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENOENT, errno.ENAMETOOLONG, errno.EEXIST,
)  # fmt: skip
_REMEDIES = {
    errno.EMFILE: Remedy.ALLOW_MORE_FILES,
    errno.ENFILE: Remedy.ALLOW_MORE_FILES,
    errno.ENOMEM: Remedy.FREE_MEMORY,
    errno.EACCES: Remedy.ALLOW_READING,
    errno.EPERM: Remedy.ALLOW_READING,
    errno.ENOENT: Remedy.RESTORE_FILE,
}


@contextlib.contextmanager
def storage_errors(path: Path, action: str, *, needed_bytes: int = 0) -> Generator[None]:
    """Turn what the operating system refuses while writing into errors that name the path and the remedy.

    Raises: DiskFullError, NotWritableError, StorageError.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _NO_SPACE:
            raise DiskFullError(
                f"cannot {action} {path}: {error.strerror}; {needed_bytes} bytes wanted, {_free_bytes(path)} free. "
                "Every finished shard and checkpoint is safe: make room and run the same command again"
            ) from error
        if error.errno in _NO_PERMISSION:
            raise NotWritableError(
                f"cannot {action} {path}: {error.strerror}; nothing was lost. Choose a folder that this user can "
                "write to, or change its permissions"
            ) from error
        raise refusal(error, action, path) from error


@contextlib.contextmanager
def reading_errors(path: Path, action: str = "read") -> Generator[None]:
    """Turn what the operating system refuses while reading into StorageError."""
    try:
        yield
    except OSError as error:
        raise refusal(error, action, path) from error


@contextlib.contextmanager
def all_errors(folder: Path, action: str) -> Generator[None]:
    """Turn whatever the operating system refuses in a long piece of work into an error that names the file.

    Args:
        folder: Named where the operating system names no file.
        action: What is done there.

    Raises: StorageError.
    """
    try:
        yield
    except OSError as error:
        path = folder if error.filename is None else Path(os.fsdecode(error.filename))
        raise refusal(error, f"{action}: refused at", path) from error


def refusal(error: OSError, action: str, path: Path | str) -> StorageError:
    """The error for what the operating system refuses: a full table, a failing disk, a stale mount."""
    remedy = _REMEDIES.get(error.errno or 0, Remedy.CHECK_STORAGE)
    return StorageError(f"cannot {action} {path}: {error.strerror or error}; nothing finished is lost", remedy=remedy)


def entries(folder: Path, *, suffix: str | None = None) -> list[Path]:
    """What a folder holds, by name; nothing where it is not there.

    Path.glob takes a folder that may not be read for an empty one.

    Args:
        folder: The folder.
        suffix: Only what ends so, ``.tar``; None for all.

    Raises: StorageError.
    """
    with reading_errors(folder, "list"), contextlib.suppress(FileNotFoundError, NotADirectoryError):
        return sorted(path for path in folder.iterdir() if suffix is None or path.suffix == suffix)
    return []


def open_regular(path: Path) -> FileIO:
    """Open an ordinary file for reading, unbuffered; a pipe or a device that a stranger put there is not waited for.

    Raises: StorageError, CorruptCacheError for anything but an ordinary file.
    """
    with reading_errors(path, "open"):
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise CorruptCacheError(f"{path}: is not an ordinary file", remedy=Remedy.RESTORE_FILE)
    return os.fdopen(descriptor, "rb", buffering=0)


def read_regular(path: Path) -> bytes:
    """All bytes of an ordinary file. Raises: as open_regular."""
    with open_regular(path) as file, reading_errors(path):
        return file.read()


def _free_bytes(path: Path) -> int:
    existing = next(parent for parent in (path, *path.parents) if parent.exists())
    return shutil.disk_usage(existing).free
