"""How many shards of a cache on object storage may be open at a time, so that their files fit the staging folder."""

from collections.abc import Sequence

from kdcache.cache.cache import Cache
from kdcache.cache.paths import INDEX
from kdcache.errors import UsageError
from kdcache.remote.staging import SIZE_VARIABLE

# Besides those that are open: of a stream two threads read ahead, and one may need a shard at once.
_OPENED_AT_ONCE, _OPENED_BY_STREAM = 1, 3


def most_open(
    cache: Cache, parts: Sequence[str], max_open: int, *, at_once: int = 1, num_opened: int = _OPENED_AT_ONCE
) -> int:
    """The number of shards that are kept open: `max_open`, or fewer where their files are fetched.

    Args:
        cache: The cache.
        parts: What is read of a shard.
        max_open: For a cache that lies here.
        at_once: Shards that are in use together.
        num_opened: Shards that are being fetched besides.

    Raises: UsageError where the staging folder is too small.
    """
    remote = cache.paths.remote
    if remote is None:
        return max_open
    sizes = _shard_bytes(cache, parts)
    if sum(sizes) <= remote.staging.max_bytes:
        return max_open
    fitting = remote.staging.max_bytes // max(sizes) - num_opened
    if fitting < at_once:
        raise _too_small(cache, at_once, num_opened, max(sizes))
    return min(max_open, fitting)


def most_open_in_stream(cache: Cache, parts: Sequence[str], max_open: int, window: int) -> int:
    """As `most_open`, for a stream that reads ahead and would otherwise fetch the shards of its window again and again.

    Args:
        cache, parts, max_open: As for `most_open`.
        window: Shards that are in use together.

    Raises: UsageError.
    """
    # And one ahead, without which the stream would stand still at the end of a window.
    at_once = min(window + 1, len(cache.manifest.shards))
    return most_open(cache, parts, max_open, at_once=at_once, num_opened=_OPENED_BY_STREAM)


def _shard_bytes(cache: Cache, parts: Sequence[str]) -> list[int]:
    groups = dict.fromkeys(part.partition("/")[0] for part in parts if "/" in part)
    read = [INDEX, *parts, *(f"{group}/{INDEX}" for group in groups)]
    return [sum(cache.file(part, shard).size_bytes for part in read) for shard in cache.manifest.shards]


def _too_small(cache: Cache, num_shards: int, num_opened: int, largest: int) -> UsageError:
    assert cache.paths.remote is not None
    staging = cache.paths.remote.staging
    return UsageError(
        f"{cache.paths}: {num_shards} shards in use and {num_opened} being fetched take up to "
        f"{(num_shards + num_opened) * largest:,} bytes, {staging.root} may hold {staging.max_bytes:,}; allow more "
        f"with {SIZE_VARIABLE}, or use a smaller window"
    )
