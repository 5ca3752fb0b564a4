"""Comparing a source with the images that a cache was extracted from: what has changed or gone since."""

import hashlib
from collections.abc import Callable, Iterator

from kdcache.cache.cache import Cache
from kdcache.cache.hdf5 import decoded
from kdcache.cache.verify import Fault
from kdcache.errors import KdcacheError, Remedy, SourceError
from kdcache.images import Source, open_again


def source_faults(cache: Cache, data: str, *, on_image: Callable[[int], None] = lambda done: None) -> Iterator[Fault]:
    """Read every image of the cache from its source again and compare its sha256.

    Args:
        cache: The cache.
        data: As for `open_source`; images are found by the keys that the cache knows.
        on_image: Called with the number of images compared so far.

    Raises: SourceError where the source cannot be opened, or be read in this order.
    """
    source = open_again(data, cache.manifest.fingerprint.source.rules)
    assert source is not None, "data is given"
    if source.in_order_only:
        raise SourceError(source.in_order_only)
    positions = {image.key: position for position, image in enumerate(source.images)}
    done = 0
    for shard in cache.manifest.shards:
        index = cache.index(shard)
        for row, name in enumerate(index.source_keys):
            source_key = decoded(name)
            problem = _problem(source, positions.get(source_key), index.source_sha256[row].tobytes())
            if problem:
                what = f"{source_key!r} {problem}"
                yield Fault(shard.name, "source", index.key(row), what, Remedy.RESTORE_FILE)
            done += 1
            on_image(done)


def _problem(source: Source, position: int | None, sha256: bytes) -> str:
    if position is None:
        return "is not in the source any more"
    try:
        data = source.read(position)
    except KdcacheError as error:
        return f"cannot be read ({error})"
    return "" if hashlib.sha256(data).digest() == sha256 else "has changed since the extraction (sha256)"
