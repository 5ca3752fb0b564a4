"""Objects of one bucket, read, listed and created by obstore, which retries what fails with backoff and a limit.

What obstore does not repeat is an answer that was cut in its body and a create-only upload whose answer was lost. The
object may be there already then; asking again is safe because whoever finds it there compares.
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, final

from kdcache.errors import CorruptCacheError, Remedy, StorageError
from kdcache.remote.engine import client, engine, exceptions, retrying
from kdcache.remote.url import RemoteUrl, scrubbed
from kdcache.storage import storage_errors

# A request that ends within its timeout at 0.3 MB/s; four of them saturated what moto's server delivers.
RANGE_BYTES = 8 << 20
_RANGES_AT_ONCE = 4
# What S3 takes in one request.
MAX_UPLOAD_BYTES = 5 << 30
# What obstore has given up, or does not try again: an answer cut in its body, an upload whose answer was lost.
_MAX_REQUESTS = 4
# A file whose bytes were damaged on their way is fetched again; one that is damaged there stays so.
MAX_FETCHES = 3
_SHA256 = "sha256"

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Entry:
    """An object: its size, and what changes when somebody writes another in its place."""

    size_bytes: int
    e_tag: str


@final
class ObjectStore:
    """The objects of a bucket by their keys; used by several threads at once, and in another process opened again.

    Args:
        url: Any place in the bucket.

    Raises: MissingExtraError.
    """

    def __init__(self, url: RemoteUrl) -> None:
        engine()
        self._url = url

    def find(self, key: str) -> Entry | None:
        """An object, None if there is none. Raises: StorageError."""
        found = self._ask("look for", key, lambda: engine().head(self._client(), key))
        return None if found is None else _entry(found)

    def read(self, key: str) -> bytes | None:
        """The bytes of a small object, None if there is none.

        Raises: StorageError; CorruptCacheError where they are not, however often they are asked for, those uploaded.
        """
        for attempt in retrying(CorruptCacheError, attempts=MAX_FETCHES):
            with attempt:
                return self._ask("read", key, lambda: self._read(key))
        return None

    def _read(self, key: str) -> bytes:
        found = engine().get(self._client(), key)
        size, wanted = found.meta["size"], found.attributes.get(_SHA256)
        data = bytes(found.bytes()) if size <= RANGE_BYTES else b"".join(self.pieces(key, size))
        if len(data) != size or wanted not in (None, hashlib.sha256(data).hexdigest()):
            raise CorruptCacheError(f"{self._at(key)}: bytes differ from those uploaded", remedy=Remedy.CHECK_STORAGE)
        return data

    def sha256(self, key: str, size: int) -> str:
        """The sha256 that an object was uploaded with, hex; of its bytes where it was uploaded without.

        Raises: StorageError.
        """
        found = self._ask("read", key, lambda: engine().get(self._client(), key, options={"head": True}))
        if found is not None and _SHA256 in found.attributes:
            return str(found.attributes[_SHA256])
        return self.sha256_of_bytes(key, size)

    def sha256_of_bytes(self, key: str, size: int) -> str:
        """The sha256 of an object's bytes, hex, all of them read. Raises: as `pieces`."""
        digest = hashlib.sha256()
        for piece in self.pieces(key, size):
            digest.update(piece)
        return digest.hexdigest()

    def list(self, prefix: str) -> tuple[dict[str, Entry], list[str]]:
        """What lies directly below a prefix: objects by name, and names of what looks like folders."""
        found = self._ask("list", prefix, lambda: engine().list_with_delimiter(self._client(), prefix or None))
        if found is None:
            raise StorageError(f"cannot list {self._at(prefix)}: is there such a bucket?")
        objects = {each["path"].rpartition("/")[2]: _entry(each) for each in found["objects"]}
        return objects, sorted(each.rpartition("/")[2] for each in found["common_prefixes"])

    def pieces(self, key: str, size: int) -> Iterator[bytes]:
        """An object's bytes in order, some requests ahead.

        Raises: StorageError; CorruptCacheError where it is shorter.
        """
        starts = range(0, size, RANGE_BYTES)
        with ThreadPoolExecutor(_RANGES_AT_ONCE, thread_name_prefix="kdcache-remote") as pool:
            for first in range(0, len(starts), _RANGES_AT_ONCE):
                part = starts[first : first + _RANGES_AT_ONCE]
                yield from pool.map(lambda start: self._range(key, start, min(RANGE_BYTES, size - start)), part)

    def download(self, key: str, size: int, descriptor: int, path: Path) -> None:
        """Write an object's bytes into an open file.

        Args:
            key: The object.
            size: Its bytes.
            descriptor, path: Of the file.

        Raises: StorageError, DiskFullError; CorruptCacheError where it is shorter.
        """
        offset = 0
        for data in self.pieces(key, size):
            with storage_errors(path, "write", needed_bytes=len(data)):
                os.pwrite(descriptor, data, offset)
            offset += len(data)

    def create(self, key: str, data: bytes | Path, sha256: str) -> bool:
        """Upload an object that is not there yet, in one request that a reader sees as a whole or not at all.

        Args:
            key: Of the object.
            data: Bytes, or a file; its bytes are in memory while they are sent.
            sha256: Of them, hex; noted beside them.

        Returns: False where one is there already, which stays as it is.
        Raises: StorageError.
        """
        size = data.stat().st_size if isinstance(data, Path) else len(data)
        if size > MAX_UPLOAD_BYTES:
            raise StorageError(
                f"{self._at(key)}: {size:,} bytes, and one request takes {MAX_UPLOAD_BYTES:,}; write fewer images "
                "into a shard"
            )
        return self._put("create", key, data, size, "create", sha256)

    def replace(self, key: str, data: bytes, *, known: Entry | None = None) -> bool:
        """Write a small object, whatever is there.

        Args:
            key: Of the object.
            data: Its bytes.
            known: Write only over this one; None over any.

        Returns: False where it is another one.
        Raises: StorageError.
        """
        condition: Any = "overwrite" if known is None else {"e_tag": known.e_tag}
        return self._put("write", key, data, len(data), condition, hashlib.sha256(data).hexdigest())

    def remove(self, key: str) -> None:
        """Remove an object; one that is not there is no fault. Raises: StorageError."""
        self._ask("remove", key, lambda: engine().delete(self._client(), key))

    def move(self, key: str, to: str) -> None:
        """Move an object, over whatever is there; one that is not there is no fault.

        It is copied by the service and then removed: interrupted in between it lies in both places, and the same again
        finishes that.

        Raises: StorageError.
        """
        if self.find(key) is not None:
            self._ask("copy", key, lambda: engine().copy(self._client(), key, to))
            self.remove(key)

    def _put(self, action: str, key: str, data: bytes | Path, size: int, mode: Any, sha256: str) -> bool:
        def put() -> bool:
            try:
                engine().put(self._client(size), key, data, mode=mode, attributes={_SHA256: sha256})
            except (exceptions().AlreadyExistsError, exceptions().PreconditionError):
                return False
            return True

        is_written = self._ask(action, key, put)
        if is_written is None:
            raise StorageError(f"cannot {action} {self._at(key)}: is there such a bucket?")
        return is_written

    def _range(self, key: str, start: int, length: int) -> bytes:
        data = self._ask("read", key, lambda: engine().get_range(self._client(), key, start=start, length=length))
        if data is None or len(data) != length:
            found = 0 if data is None else len(data)
            raise CorruptCacheError(
                f"{self._at(key)}: {found} of {length} bytes came from byte {start} on", remedy=Remedy.CHECK_STORAGE
            )
        return bytes(data)

    def _client(self, upload_bytes: int | None = None) -> Any:
        return client(self._url.scheme, self._url.bucket, upload_bytes=upload_bytes)

    def _at(self, key: str) -> RemoteUrl:
        return RemoteUrl(self._url.scheme, self._url.bucket, key)

    def _ask(self, action: str, key: str, request: Callable[[], Answer]) -> Answer | None:
        """Make a request, again where it failed in a way that may pass. Returns: None for what is not there."""
        known = exceptions()
        try:
            for attempt in retrying(known.GenericError, attempts=_MAX_REQUESTS):
                with attempt:
                    return request()
        except FileNotFoundError:
            return None
        except (known.PermissionDeniedError, known.UnauthenticatedError) as error:
            raise StorageError(
                f"cannot {action} {self._at(key)}: access is denied ({_words(error)}); nothing finished is lost. Check "
                "the credentials in the environment and what they may do there, then run this again"
            ) from None
        except known.BaseError as error:
            raise StorageError(
                f"cannot {action} {self._at(key)}: {_words(error)}; nothing finished is lost",
                remedy=Remedy.CHECK_STORAGE,
            ) from None
        return None


def _words(error: Exception) -> str:
    """What obstore says, in one line: neither its traces nor the signed URLs of requests."""
    return scrubbed(" ".join(str(error).partition("\n\nDebug source")[0].split()))[:300]


def _entry(meta: Any) -> Entry:
    return Entry(meta["size"], meta["e_tag"] or "")
