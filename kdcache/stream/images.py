"""Images of a cache: fetched from it or from their source, decoded, and replayed as the teacher saw them."""

import contextlib
import hashlib
import os
import threading
from collections.abc import Iterator, Sequence
from typing import final

import numpy as np
from PIL import __version__ as pillow_version

from kdcache.cache.cache import Cache
from kdcache.cache.paths import SAMPLES
from kdcache.errors import BadImageError, CacheMismatchError, CorruptCacheError, Remedy, SourceError
from kdcache.forks import renew_after_fork
from kdcache.images import Source, decode_pixels, encode_jpeg
from kdcache.reading.open_shard import OpenShard
from kdcache.reading.reader import ShardReader
from kdcache.stream.order import sample_starts
from kdcache.views import VIEW_FIELDS, pixel_hash, replay_views

_SMALL_IMAGE_BYTES = 4096


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
                f"{cache.paths}: views consist of {fingerprint.views.fields}, this kdcache replays {list(VIEW_FIELDS)}",
                remedy=Remedy.UPDATE,
            )
        if source is not None and source.in_order_only:
            raise SourceError(source.in_order_only)
        self._fingerprint, self._pixel_rule = fingerprint, fingerprint.views.pixel_rule
        self._reader, self._root = reader, cache.paths
        self._check_below = check_share * 2**32
        self._source = source
        self.renew()
        self._starts = np.cumsum([0, *(shard.num_samples for shard in cache.manifest.shards)])
        self._positions = _positions(cache, source)
        renew_after_fork(self)

    def renew(self) -> None:
        """See Renewable."""
        self._small_images = threading.Lock()

    def pixels(self, shard: OpenShard, row: int, sample: int, views: Sequence[int]) -> Iterator[np.ndarray]:
        """The pixels of some views of one sample, (S, S, 3) uint8 each; the image is decoded once.

        Raises: CacheMismatchError when they are not the pixels the teacher saw.
        """
        image = self._decode(shard, row)
        replayed = self._replay([image] * len(views), shard.index.views[row, list(views)])
        for view, pixels in zip(views, replayed, strict=True):
            if self._is_checked(sample, view):
                self._compare(pixels, shard, row, view)
            yield pixels

    def fill(self, rows: np.ndarray, into: np.ndarray) -> None:
        """Fill rows of a batch with the pixels of their views.

        Images are decoded one by one, then all views are cut in one call without the interpreter lock.

        Args:
            rows: (n, 2) int64, sample and view numbers; an image is decoded once for rows of its own side by side.
            into: (n, S, S, 3) uint8, C-contiguous.

        Raises: CacheMismatchError when they are not the pixels the teacher saw.
        """
        numbers = np.searchsorted(self._starts, rows[:, 0], side="right") - 1
        shards = {number: self._reader.shard(number) for number in sorted(set(numbers.tolist()))}
        in_shard = (rows[:, 0] - self._starts[numbers]).tolist()
        places = [(shards[number], row) for number, row in zip(numbers.tolist(), in_shard, strict=True)]
        views = np.array([shard.index.views[row, view] for (shard, row), view in zip(places, rows[:, 1], strict=True)])
        starts = sample_starts(rows)
        with self._turn(places):
            decoded = [self._decode(*places[start]) for start in starts.tolist()]
        repeats = np.diff(starts, append=len(rows)).tolist()
        images = [image for image, count in zip(decoded, repeats, strict=True) for _ in range(count)]
        self._replay(images, views, into)
        for at, (sample, view) in enumerate(rows.tolist()):
            if self._is_checked(sample, view):
                self._compare(into[at], *places[at], view)

    def read(self, shard: OpenShard, row: int) -> bytes:
        """The image file of a sample, as the teacher read it.

        Raises: SourceError, CacheMismatchError when the source's file has changed.
        """
        if self._source is None:
            return self._read_embedded(shard, row)
        sample = shard.index.sample(row)
        position = self._positions.get(sample.source_key)
        if position is None:
            raise SourceError(
                f"{shard.name}, key {sample.key!r}: the source has no image {sample.source_key!r}",
                remedy=Remedy.PASS_SOURCE,
            )
        data = self._source.read(position)
        if hashlib.sha256(data).hexdigest() != sample.source_sha256:
            raise CacheMismatchError(
                f"{shard.name}, key {sample.key!r}: the source image {sample.source_key!r} has changed since the "
                "extraction (sha256); restore it, or extract again"
            )
        return data

    def _turn(self, places: Sequence[tuple[OpenShard, int]]) -> contextlib.AbstractContextManager[object]:
        """Small embedded images are decoded by one thread at a time, while the others cut their views.

        Decoding 32 px takes 12 us and releases the interpreter lock in between: two threads that pass it to and fro for
        every image decode no more than one (82,000 and 76,000 a second, benchmarks/LOG.md 2026-11-26).
        """
        if self._source is not None:  # reading may wait for a disk
            return contextlib.nullcontext()
        size = sum(int(shard.index.image_sizes[row]) for shard, row in places)
        return self._small_images if size <= _SMALL_IMAGE_BYTES * len(places) else contextlib.nullcontext()

    def _read_embedded(self, shard: OpenShard, row: int) -> bytes:
        size, offset = int(shard.index.image_sizes[row]), int(shard.index.image_offsets[row])
        with contextlib.suppress(OSError):
            data = os.pread(shard.files[SAMPLES].descriptor, size, offset)
            if len(data) == size:
                return data
        return self._reader.read_image(shard, row)  # raises with the cause, or reads the rest

    def _decode(self, shard: OpenShard, row: int) -> np.ndarray:
        try:
            return decode_pixels(self.read(shard, row), self._pixel_rule)
        except BadImageError as error:
            key = shard.index.key(row)
            raise CacheMismatchError(
                f"{shard.name}, key {key!r}: the image was decoded at extraction and is not now ({error}); "
                f"{self._advice()}"
            ) from None

    def _replay(self, images: Sequence[np.ndarray], views: np.ndarray, into: np.ndarray | None = None) -> np.ndarray:
        facts = self._fingerprint.views
        try:
            replayed = replay_views(
                images,
                views,
                size=facts.size,
                interpolation=facts.interpolation,
                mean=facts.mean,
                std=facts.std,
                out=into,
            )
        except ValueError as error:
            raise CorruptCacheError(f"{self._root}: views cannot be replayed ({error})", remedy=Remedy.REPAIR) from None
        if facts.jpeg_quality:
            # The teacher saw the decoded JPEG of each view.
            for view in replayed:
                view[:] = decode_pixels(encode_jpeg(view, facts.jpeg_quality))
        return replayed

    def _is_checked(self, sample: int, view: int) -> bool:
        return (sample * 0x9E3779B1 + view * 0x85EBCA77) % 2**32 < self._check_below

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


def _positions(cache: Cache, source: Source | None) -> dict[str, int]:
    if source is None:
        if cache.manifest.fingerprint.images != "embed":
            raise SourceError(f"{cache.paths} refers to its images and does not hold them", remedy=Remedy.PASS_SOURCE)
        return {}
    return {image.key: position for position, image in enumerate(source.images)}
