"""What is compared before the contents of an index are believed."""

import contextlib
import hashlib
from collections.abc import Generator
from pathlib import Path

from kdcache.cache.facts import FileFacts
from kdcache.errors import CorruptCacheError, Remedy
from kdcache.storage import read_regular


@contextlib.contextmanager
def contradictions(path: Path) -> Generator[None]:
    """Turn what an index cannot say beside this manifest into CorruptCacheError."""
    try:
        yield
    except ValueError as error:
        raise CorruptCacheError(f"{path}: {error}", remedy=Remedy.REBUILD) from None


def refuse_other_plan(path: Path, found: str, wanted: str) -> None:
    """Compare the plans of an index and of a manifest, by their digests. Raises: CorruptCacheError."""
    if found != wanted:
        raise CorruptCacheError(
            f"{path}: written under the plan {found[:12]}…, the manifest's is {wanted[:12]}…", remedy=Remedy.REPAIR
        )


def read_hashed(path: Path, facts: FileFacts) -> bytes:
    """The bytes of an index that a manifest names. Raises: CorruptCacheError, StorageError."""
    data = read_regular(path)
    if hashlib.sha256(data).hexdigest() != facts.sha256:
        raise CorruptCacheError(f"{path}: not the index the manifest names", remedy=Remedy.REBUILD)
    return data
