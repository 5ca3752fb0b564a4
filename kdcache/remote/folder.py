"""A folder of object storage, as a cache or a set of tars lies in it."""

import hashlib
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, final

from kdcache.errors import CorruptCacheError, Remedy, ShardConflictError
from kdcache.remote.engine import retrying
from kdcache.remote.staging import Lease, Staging
from kdcache.remote.store import MAX_FETCHES, Entry, ObjectStore
from kdcache.remote.url import RemoteUrl
from kdcache.storage import open_regular, reading_errors

_PIECE_BYTES = 4 << 20


@dataclass(frozen=True)
class Content:
    """What a file must hold: its sha256, hex, and its size."""

    sha256: str
    size_bytes: int


@final
@dataclass(frozen=True)
class RemoteFolder:
    """Objects below a URL by their names, which may hold slashes.

    Args:
        url: Of the folder.
        staging: Where whole files go.
    """

    url: RemoteUrl
    staging: Staging

    @cached_property
    def _store(self) -> ObjectStore:
        return ObjectStore(self.url)

    @cached_property
    def _listings(self) -> dict[str, dict[str, Entry]]:
        return {}

    def __str__(self) -> str:
        return str(self.url)

    def __truediv__(self, name: str) -> "RemoteFolder":
        return RemoteFolder(self.url / name, self.staging)

    def __getstate__(self) -> dict[str, Any]:
        # Another process has its own connections.
        return {"url": self.url, "staging": self.staging}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    def read(self, name: str) -> bytes | None:
        """The bytes of a small object, None if there is none. Raises: StorageError."""
        return self._store.read(self._key(name))

    def find(self, name: str) -> Entry | None:
        """An object, None if there is none. Raises: StorageError."""
        return self._store.find(self._key(name))

    def list(self) -> tuple[dict[str, Entry], list[str]]:
        """Objects by name, and names of folders, directly in this one. Raises: StorageError."""
        return self._store.list(self.url.key)

    def entries(self, part: str) -> dict[str, Entry]:
        """Objects of a part by name, as they were when first asked for, and those that this object has created since.

        Raises: StorageError.
        """
        if part not in self._listings:
            self._listings[part] = self._store.list(self._key(part) if part else self.url.key)[0]
        return self._listings[part]

    def refresh(self) -> None:
        """Ask again what parts hold."""
        self._listings.clear()

    def staged(self, name: str, content: Content) -> Path:
        """Where a file is while somebody holds it."""
        return self.staging.path(content.sha256 + Path(name).suffix)

    def hold(self, name: str, content: Content, *, reread: bool = False) -> Lease:
        """Bring a file here whole, compare its hash, and hold it.

        Args:
            name: Of the object.
            content: What its manifest says of it. Here the file is named by its hash.
            reread: Compare the object's bytes even if its content is here, from whatever time.

        Raises: CorruptCacheError where it is missing or has other bytes, however often it is fetched; StorageError,
            DiskFullError.
        """
        key = self._key(name)
        if reread and self.staged(name, content).is_file():  # else they are compared when they are fetched
            self._check(name, content)

        def fetch(descriptor: int, path: Path) -> None:
            self._require(name, content.size_bytes)
            for attempt in retrying(CorruptCacheError, attempts=MAX_FETCHES):
                with attempt:
                    self._store.download(key, content.size_bytes, descriptor, path)
                    self._compare(name, content, path, descriptor)

        def check(path: Path) -> bool:
            return _sha256(path) == content.sha256

        return self.staging.hold(self.staged(name, content).name, content.size_bytes, fetch, check)

    def hold_as_is(self, name: str, entry: Entry) -> Lease:
        """Bring a file here of which nothing is known but what the service says: it is named by that."""
        identity = f"{self.url / name} {entry.size_bytes} {entry.e_tag}"

        def fetch(descriptor: int, path: Path) -> None:
            for attempt in retrying(CorruptCacheError, attempts=MAX_FETCHES):
                with attempt:
                    self._store.download(self._key(name), entry.size_bytes, descriptor, path)

        staged = hashlib.sha256(identity.encode()).hexdigest() + Path(name).suffix
        return self.staging.hold(staged, entry.size_bytes, fetch, lambda _: True)

    def create(self, name: str, data: bytes | Path) -> None:
        """Upload a file that is not there yet; where it is, it must be the same.

        Raises: ShardConflictError where it is another, which stays; StorageError.
        """
        key, own = self._key(name), hashlib.sha256(data).hexdigest() if isinstance(data, bytes) else _sha256(data)
        size = len(data) if isinstance(data, bytes) else data.stat().st_size
        if not self._store.create(key, data, own):
            found = self._store.find(key)
            if found is None or self._store.sha256(key, found.size_bytes) != own:
                raise ShardConflictError(
                    f"{self.url / name}: another job wrote other bytes than this one's (sha256 {own[:12]}…) for the "
                    "same plan; the first were kept. Check that all workers run the same versions on the same kind of "
                    "device"
                )
        folder, _, own_name = name.rpartition("/")
        if folder in self._listings:
            self._listings[folder][own_name] = Entry(size, "")

    def replace(self, name: str, data: bytes, *, known: Entry | None = None) -> bool:
        """Write a small object. Args, returns: as ObjectStore.replace."""
        return self._store.replace(self._key(name), data, known=known)

    def remove(self, name: str) -> None:
        """Remove an object, if it is there. Raises: StorageError."""
        self._store.remove(self._key(name))
        self.refresh()

    def move(self, name: str, to: str) -> None:
        """Give an object another name, if it is there; replaces what has that name. Raises: StorageError."""
        self._store.move(self._key(name), self._key(to))
        self.refresh()

    def _key(self, name: str) -> str:
        return (self.url / name).key

    def _check(self, name: str, content: Content) -> None:
        self._require(name, content.size_bytes)
        for attempt in retrying(CorruptCacheError, attempts=MAX_FETCHES):
            with attempt:
                found = self._store.sha256_of_bytes(self._key(name), content.size_bytes)
                self._require_hash(name, content, found)

    def _require(self, name: str, size: int) -> None:
        found = self.find(name)
        if found is None:
            raise CorruptCacheError(f"{self.url / name}: missing, the manifest names it", remedy=Remedy.REPAIR)
        if found.size_bytes != size:
            raise CorruptCacheError(
                f"{self.url / name}: {found.size_bytes} bytes found, {size} wanted", remedy=Remedy.REPAIR
            )

    def _compare(self, name: str, content: Content, path: Path, descriptor: int) -> None:
        digest = hashlib.sha256()
        with reading_errors(path):
            for offset in range(0, content.size_bytes, _PIECE_BYTES):
                digest.update(os.pread(descriptor, _PIECE_BYTES, offset))
        self._require_hash(name, content, digest.hexdigest())

    def _require_hash(self, name: str, content: Content, found: str) -> None:
        if found != content.sha256:
            raise CorruptCacheError(
                f"{self.url / name}: bytes differ from what was written (sha256), fetched {MAX_FETCHES} times",
                remedy=Remedy.REPAIR,
            )


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open_regular(path) as file, reading_errors(path):
        while piece := file.read(_PIECE_BYTES):
            digest.update(piece)
    return digest.hexdigest()
