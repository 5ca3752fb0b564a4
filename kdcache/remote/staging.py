"""Whole files of object storage on a local disk: named by their content, bounded together, never removed while in use.

Who uses a file holds a shared `flock` on it, which the kernel releases however a process ends; who makes room takes
only files that nobody holds. A file being fetched is held exclusively: others wait for it. A guard makes "look, then
hold" one step. Nothing here is flushed: contents are hashed before use.
"""

import contextlib
import fcntl
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TypeVar, final

from kdcache.errors import StorageError
from kdcache.remote.engine import retrying
from kdcache.storage import open_regular, storage_errors

FOLDER_VARIABLE, SIZE_VARIABLE = "KDCACHE_STAGING", "KDCACHE_STAGING_SIZE"
_DEFAULT_BYTES = 100 * 10**9
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_OBJECTS, _USED, _GUARD, _PART = "objects", "used", "guard", ".part"
# How long others may take to let go of their files before a bound that is too small is said to be so.
_PATIENCE_S = 30.0

Result = TypeVar("Result")


@final
class Lease:
    """A staged file that stays as long as this object lives.

    Args:
        path: The file.
        descriptor: Holds it; owned by this object. None for a file that needs no holding.
    """

    def __init__(self, path: Path, descriptor: int | None = None) -> None:
        self.path = path
        self._descriptor = descriptor

    def release(self) -> None:
        """Let go of the file now, whoever still has this object."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    __del__ = release


class _NoRoomError(Exception):
    """Files in use leave too little room."""


@final
class Staging:
    """A folder of this user alone that never holds more than so many bytes.

    Args:
        root: The folder; created if need be.
        max_bytes: Of all files in it, those being fetched with their full size.

    Raises: StorageError for a folder of another user, NotWritableError.
    """

    def __init__(self, root: Path, max_bytes: int) -> None:
        self.root = root
        self.max_bytes = max_bytes
        self._trusted: dict[str, tuple[int, int]] = {}  # identities of what this process has fetched or compared
        for folder in (root / _OBJECTS, root / _USED):
            private_folder(folder)

    @classmethod
    def default(cls) -> "Staging":
        """As KDCACHE_STAGING and KDCACHE_STAGING_SIZE say.

        Unset: a folder of this user's cache, half of what its disk has to spare, 100 GB at most.

        Raises: StorageError for a size that is none.
        """
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kdcache" / "staging"
        root = Path(os.environ.get(FOLDER_VARIABLE) or home)
        text = os.environ.get(SIZE_VARIABLE)
        if text:
            return cls(root, parse_size(text))
        private_folder(root / _OBJECTS)
        spare = shutil.disk_usage(root).free + used_bytes(root)
        return cls(root, min(spare // 2, _DEFAULT_BYTES))

    def path(self, name: str) -> Path:
        """Where a file of this name is, or would be."""
        return self.root / _OBJECTS / name

    def hold(self, name: str, size: int, fetch: Callable[[int, Path], None], check: Callable[[Path], bool]) -> Lease:
        """Fetch a file unless it is here, and hold it.

        Args:
            name: Says what it contains.
            size: Bytes.
            fetch: Writes the file through a descriptor and compares what came; the path is for messages.
            check: Whether a file that was here before this process is still what its name says.

        Raises: what `fetch` raises; StorageError where files in use leave no room for it, DiskFullError.
        """
        path = self.path(name)
        while True:
            lease, part = self._held_or_begun(path, size)
            if part is not None:
                return self._fetched(path, part, fetch)
            if lease is None:
                self._await(path)
            elif self._trusted.get(name) == _identity(path) or check(path):
                self._trusted[name] = _identity(path)
                return lease
            else:
                with self._guard():
                    path.unlink(missing_ok=True)

    def reserve(self, size: int) -> Lease:
        """Keep room for so many bytes that will be written below the folder, as long as the lease lives.

        Raises: as `hold`.
        """
        path = self.path(f"room-{secrets.token_hex(8)}")  # a name that nobody else has

        def begin() -> int:
            descriptor = self._begin(path, 0, room=size)
            assert descriptor is not None
            os.ftruncate(descriptor, size)  # counts, and takes no room itself
            return descriptor

        return Lease(_part(path), self._patiently(size, begin))

    def _held_or_begun(self, path: Path, size: int) -> tuple[Lease | None, int | None]:
        """The file, held; or a descriptor of a new one to be filled; or neither where somebody fetches it already."""

        def look() -> tuple[Lease | None, int | None]:
            lease = self._held(path, size)
            return lease, None if lease is not None else self._begin(path, size)

        return self._patiently(size, look)

    def _patiently(self, size: int, work: Callable[[], Result]) -> Result:
        """Do something with the guard; where there is no room, others may let go of files meanwhile."""
        try:
            for attempt in retrying(_NoRoomError, max_seconds=_PATIENCE_S, pause_s=0.2):
                with attempt, self._guard():
                    return work()
        except _NoRoomError:
            pass
        raise StorageError(
            f"{self.root}: {size:,} more bytes are needed, the files in use leave less of the {self.max_bytes:,} that "
            f"it may hold; allow more with {SIZE_VARIABLE}, or use fewer shards at a time (a smaller window)"
        )

    def _held(self, path: Path, size: int) -> Lease | None:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            return None
        lease = Lease(path, descriptor)
        if os.fstat(descriptor).st_size != size:
            path.unlink()
            return None
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        (self.root / _USED / path.name).touch()
        return lease

    def _begin(self, path: Path, size: int, *, room: int = 0) -> int | None:
        """A descriptor of a new file with room for all its bytes; None where somebody is fetching it already."""
        part = _part(path)
        descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        try:
            os.ftruncate(descriptor, 0)
            self._make_room(size + room)
            with storage_errors(path, "make room for", needed_bytes=size):
                if size:
                    os.posix_fallocate(descriptor, 0, size)
        except BaseException:
            part.unlink()
            os.close(descriptor)
            raise
        return descriptor

    def _await(self, path: Path) -> None:
        """Wait until whoever fetches a file has it, or has given up."""
        with contextlib.suppress(FileNotFoundError):
            descriptor = os.open(_part(path), os.O_RDONLY | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_SH)
            finally:
                os.close(descriptor)

    def _fetched(self, path: Path, descriptor: int, fetch: Callable[[int, Path], None]) -> Lease:
        lease = Lease(path, descriptor)
        try:
            fetch(descriptor, path)
        except BaseException:
            with self._guard():
                _part(path).unlink(missing_ok=True)
            raise
        with self._guard():
            _part(path).rename(path)
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            (self.root / _USED / path.name).touch()
        self._trusted[path.name] = _identity(path)
        return lease

    def _make_room(self, size: int) -> None:
        """Remove the files that were used longest ago until so many bytes fit; called with the guard."""
        excess = used_bytes(self.root) + size - self.max_bytes
        for path in sorted((self.root / _OBJECTS).iterdir(), key=self._last_use):
            if excess <= 0:
                return
            if (freed := _remove_unused(path)) is not None:
                excess -= freed
                (self.root / _USED / path.name).unlink(missing_ok=True)
        if excess > 0:
            raise _NoRoomError

    def _last_use(self, path: Path) -> float:
        with contextlib.suppress(FileNotFoundError):
            return (self.root / _USED / path.name).stat().st_mtime
        return 0.0

    @contextlib.contextmanager
    def _guard(self) -> Generator[None]:
        with storage_errors(self.root, "lock"):
            descriptor = os.open(self.root / _GUARD, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def private_folder(folder: Path) -> None:
    """Create a folder that nobody else can look into. Raises: StorageError where it is another's, NotWritableError."""
    with storage_errors(folder, "create"):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise StorageError(
            f"{folder}: wanted a folder of this user that nobody else may enter (mode 0700), for files from object "
            f"storage; remove it, or set {FOLDER_VARIABLE} to another place"
        )


def parse_size(text: str) -> int:
    """Bytes of ``500MB``, ``2 GB``, ``1.5T`` or a number. Raises: StorageError."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d*)?)\s*([KMGT]?)B?\s*", text.upper())
    if match is None:
        raise StorageError(f"{SIZE_VARIABLE} is {text!r}; wanted a size such as 200GB")
    return int(float(match[1]) * _UNITS[match[2]])


def used_bytes(root: Path) -> int:
    """Bytes of all files below a folder; those that vanish meanwhile do not count."""
    total = 0
    for folder, _, names in os.walk(root):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += Path(folder, name).lstat().st_size
    return total


def _remove_unused(path: Path) -> int | None:
    """Remove a file unless somebody holds it. Returns: the bytes freed, None where it is in use."""
    try:
        file = open_regular(path)
    except StorageError:
        return None
    with file:
        try:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return None
        size = os.fstat(file.fileno()).st_size
        path.unlink(missing_ok=True)
        return size


def _part(path: Path) -> Path:
    return path.with_name(path.name + _PART)


def _identity(path: Path) -> tuple[int, int]:
    with contextlib.suppress(FileNotFoundError):
        found = path.stat()
        return found.st_ino, found.st_mtime_ns
    return 0, 0
