"""Images of a cache: fetched from it or from their source, decoded, and replayed as the teacher saw them."""

import hashlib
from collections.abc import Iterator, Sequence
from typing import final

import numpy as np
from PIL import __version__ as pillow_version

from kdcache.cache.cache import Cache
from kdcache.cache.manifest import Fingerprint
from kdcache.errors import BadImageError, CacheMismatchError, SourceError
from kdcache.images import Source, decode_image
from kdcache.stream.reader import OpenShard, ShardReader
from kdcache.views import VIEW_FIELDS, ViewParams, pixel_hash, replay_view


@final
class ViewReplayer:
    """Gives the pixels of any stored view.

    Args:
        cache: The cache.
        reader: Reads embedded images.
        source: Where the images come from when the cache only refers to them, else None.
        check_share: Fraction of the views whose pixels are compared with the stored hash, 0 to 1. Which ones is a pure
            function of sample and view.

    Raises: SourceError when the cache needs a source and none is given, or that source lacks images.
        CacheMismatchError for views of an unknown kind.
    """

    def __init__(self, cache: Cache, reader: ShardReader, source: Source | None, *, check_share: float) -> None:
        if not 0 <= check_share <= 1:
            raise ValueError(f"check_share must be between 0 and 1, got {check_share}")
        fingerprint = cache.manifest.fingerprint
        if tuple(fingerprint.views.fields) != VIEW_FIELDS:
            raise CacheMismatchError(
                f"{cache.paths.root}: views consist of {fingerprint.views.fields}, this kdcache replays "
                f"{list(VIEW_FIELDS)}; update kdcache"
            )
        self._fingerprint = fingerprint
        self._reader = reader
        self._check_below = check_share * 2**32
        self._source = source
        self._positions = _positions(fingerprint, source)

    def pixels(self, shard: OpenShard, row: int, sample: int, views: Sequence[int]) -> Iterator[np.ndarray]:
        """The pixels of some views of one sample, (S, S, 3) uint8 each; the image is decoded once.

        Raises: CacheMismatchError when they are not the pixels the teacher saw.
        """
        facts = self._fingerprint.views
        try:
            decoded = decode_image(self.read(shard, row))
        except BadImageError as error:
            key = shard.index.key(row)
            raise CacheMismatchError(
                f"{shard.name}, key {key!r}: the image was decoded at extraction and is not now ({error}); "
                f"{self._advice()}"
            ) from None
        for view in views:
            params = ViewParams(*(int(each) for each in shard.index.views[row, view]))
            pixels = replay_view(decoded.rgb, params, size=facts.size, interpolation=facts.interpolation)
            if (sample * 0x9E3779B1 + view * 0x85EBCA77) % 2**32 < self._check_below:
                self._compare(pixels, shard, row, view)
            yield pixels

    def read(self, shard: OpenShard, row: int) -> bytes:
        """The image file of a sample, as the teacher read it.

        Raises: SourceError, CacheMismatchError when the source's file has changed.
        """
        if self._source is None:
            return self._reader.read_image(shard, row)
        sample = shard.index.sample(row)
        position = self._positions.get(sample.source_key)
        if position is None:
            raise SourceError(
                f"{shard.name}, key {sample.key!r}: the source has no image {sample.source_key!r}; pass the source the "
                "cache was extracted from with --data"
            )
        data = self._source.read(position)
        if hashlib.sha256(data).hexdigest() != sample.source_sha256:
            raise CacheMismatchError(
                f"{shard.name}, key {sample.key!r}: the source image {sample.source_key!r} has changed since the "
                "extraction (sha256); restore it, or extract again"
            )
        return data

    def _compare(self, pixels: np.ndarray, shard: OpenShard, row: int, view: int) -> None:
        stored = shard.index.pixel_hashes[row, view].tobytes().hex()
        found = pixel_hash(pixels)
        if found != stored:
            raise CacheMismatchError(
                f"{shard.name}, key {shard.index.key(row)!r}, view {view}: replayed pixels hash to {found[:12]}…, the "
                f"teacher saw {stored[:12]}…; {self._advice()}"
            )

    def _advice(self) -> str:
        made = self._fingerprint.versions.get("pillow", "unknown")
        return (
            f"the cache was made with Pillow {made}, this is {pillow_version}: install that version, or extract again"
        )


def _positions(fingerprint: Fingerprint, source: Source | None) -> dict[str, int]:
    if source is None:
        if fingerprint.images != "embed":
            raise SourceError(
                "this cache refers to its images and does not hold them; pass the source it was extracted from with "
                "--data"
            )
        return {}
    return {image.key: position for position, image in enumerate(source.images)}
