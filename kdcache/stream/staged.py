"""How many shards of a cache on object storage may be open at a time, so that their files fit the staging folder."""

from collections.abc import Sequence

from kdcache.cache.cache import Cache
from kdcache.cache.paths import INDEX
from kdcache.errors import UsageError
from kdcache.remote.staging import SIZE_VARIABLE

# Besides those that are open: two threads read ahead, and one may need a shard at once.
_BEING_OPENED = 3


def most_open(cache: Cache, parts: Sequence[str], max_open: int) -> int:
    """The number of shards that are kept open: `max_open`, or fewer where their files are fetched.

    Args:
        cache: The cache.
        parts: What is read of a shard.
        max_open: For a cache that lies here.

    Raises: UsageError where the staging folder is too small for any.
    """
    remote = cache.paths.remote
    if remote is None:
        return max_open
    sizes = _shard_bytes(cache, parts)
    if sum(sizes) <= remote.staging.max_bytes:
        return max_open
    fitting = remote.staging.max_bytes // max(sizes) - _BEING_OPENED
    if fitting < 1:
        raise _too_small(cache, 1, max(sizes))
    return min(max_open, fitting)


def require_window(cache: Cache, parts: Sequence[str], window: int, max_open: int) -> None:
    """Refuse a stream that would fetch the shards of its window again and again.

    Args:
        cache, parts: As for `most_open`.
        window: Shards that are in use together.
        max_open: What `most_open` gave.

    Raises: UsageError.
    """
    # And one ahead, without which the stream would stand still at the end of a window.
    needed = min(window + 1, len(cache.manifest.shards))
    if cache.paths.remote is not None and max_open < needed:
        raise _too_small(cache, needed, max(_shard_bytes(cache, parts)))


def _shard_bytes(cache: Cache, parts: Sequence[str]) -> list[int]:
    groups = dict.fromkeys(part.partition("/")[0] for part in parts if "/" in part)
    read = [INDEX, *parts, *(f"{group}/{INDEX}" for group in groups)]
    return [sum(cache.file(part, shard).size_bytes for part in read) for shard in cache.manifest.shards]


def _too_small(cache: Cache, num_shards: int, largest: int) -> UsageError:
    assert cache.paths.remote is not None
    staging = cache.paths.remote.staging
    return UsageError(
        f"{cache.paths}: {num_shards} shards in use and {_BEING_OPENED} being fetched take up to "
        f"{(num_shards + _BEING_OPENED) * largest:,} bytes, {staging.root} may hold {staging.max_bytes:,}; allow more "
        f"with {SIZE_VARIABLE}, or use a smaller window"
    )
