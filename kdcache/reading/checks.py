"""When the files of a shard are hashed: before their first use or after it, and again when they have changed."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, final

from kdcache.cache.cache import Cache
from kdcache.cancel import CancelToken
from kdcache.forks import renew_after_fork
from kdcache.reading.files import Identity, OpenFile

CheckPolicy = Literal["full", "records", "background", "size"]
Files = Mapping[str, OpenFile]
# Beside training, a check in the background takes a small part of what the disk and the memory can deliver.
BACKGROUND_BYTES_PER_S = 512 << 20
_LONGEST_NAP_S = 0.05


@final
class ShardChecks:
    """What is known of the files of each shard; safe to use from several threads.

    Args:
        cache: The cache.
        policy: See ShardReader.

    Attributes:
        unchecked: Numbers of shards that are in use and are still to be hashed.
    """

    def __init__(self, cache: Cache, policy: CheckPolicy) -> None:
        self._cache, self._policy = cache, policy
        # A file with another inode, size or time is another file, whatever was hashed under its name.
        self._checked: dict[int, list[Identity]] = {}
        self.unchecked: set[int] = set()
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """See Renewable."""
        self._lock, self._again = threading.Lock(), threading.Lock()

    def is_due(self, number: int, files: Files) -> bool:
        """Whether a shard must be hashed before it is used; where that can wait, it is noted."""
        if self._policy == "size" or self._checked.get(number) == _identities(files):
            return False
        if self._policy == "background":
            with self._lock:
                self.unchecked.add(number)
        return self._policy in ("full", "records")

    def hash(self, number: int, files: Files, cancel: CancelToken, bytes_per_s: float | None = None) -> None:
        """Hash the files of a shard through the descriptors that its records are read from.

        Args:
            number: Of the shard.
            files: Open, by part.
            cancel: Ends the work at the next piece of a file.
            bytes_per_s: Pace; None for none.

        Raises: CorruptCacheError, StorageError, Cancelled.
        """
        facts = self._cache.manifest.shards[number]
        identities = _identities(files)
        pause = _paced(cancel, bytes_per_s)
        for part, file in files.items():
            self._cache.check_hash(part, facts, pause, file.pieces())
        with self._lock:
            self._checked[number] = identities
            self.unchecked.discard(number)

    def confirm(self, shards: Mapping[int, Files], parts: Sequence[str], cancel: CancelToken) -> bool:
        """Look whether files are what they were when they were opened; what changed is hashed as the policy wants.

        Args:
            shards: Files of each shard by part.
            parts: Which of them.
            cancel: Ends hashing.

        Returns: False where something had changed and is good: what was read of it meanwhile must be read again.
        Raises: CorruptCacheError.
        """
        changed = [number for number, files in shards.items() if any(files[part].is_changed() for part in parts)]
        for number in changed:
            with self._again:
                for file in shards[number].values():
                    file.renew()
                if self.is_due(number, shards[number]):
                    self.hash(number, shards[number], cancel)
        return not changed


def _identities(files: Files) -> list[Identity]:
    return [file.identity for file in files.values()]


def _paced(cancel: CancelToken, bytes_per_s: float | None) -> Callable[[int], None]:
    """Called with the bytes that were just hashed: waits as long as the pace wants. It raises Cancelled."""
    started, total = time.monotonic(), 0

    def pause(size: int) -> None:
        nonlocal total
        total += size
        cancel.check()
        while bytes_per_s is not None and (early := started + total / bytes_per_s - time.monotonic()) > 0:
            time.sleep(min(early, _LONGEST_NAP_S))
            cancel.check()

    return pause
