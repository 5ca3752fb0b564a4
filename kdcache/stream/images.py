"""Images of a cache: fetched from it or from their source, decoded, and replayed as the teacher saw them."""

import hashlib
from collections.abc import Iterator, Sequence
from typing import final

import numpy as np
from PIL import __version__ as pillow_version

from kdcache.cache.cache import Cache
from kdcache.errors import BadImageError, CacheMismatchError, CorruptCacheError, Remedy, SourceError
from kdcache.images import Source, decode_files, decode_pixels, encode_jpeg
from kdcache.packed import PackedFiles
from kdcache.reading.open_shard import OpenShard
from kdcache.reading.pieces import ShardRows, read_images
from kdcache.reading.reader import ShardReader
from kdcache.stream.order import sample_starts
from kdcache.views import VIEW_FIELDS, pixel_hash, replay_views

# Hashes of sample and view numbers, of which those below a bound are checked.
_CHECK_FACTORS = np.array([0x9E3779B1, 0x85EBCA77], np.int64)


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
        self._positions = _positions(cache, source)

    def pixels(self, shard: OpenShard, row: int, sample: int, views: Sequence[int]) -> Iterator[np.ndarray]:
        """The pixels of some views of one sample, (S, S, 3) uint8 each; the image is decoded once.

        Raises: CacheMismatchError when they are not the pixels the teacher saw.
        """
        image = self._decode(self.read(shard, row), shard, row)
        replayed = self._replay([image] * len(views), shard.index.views[row, list(views)])
        for view, pixels in zip(views, replayed, strict=True):
            if self._are_checked(np.array([[sample, view]]))[0]:
                self._compare(pixels, shard, row, view)
            yield pixels

    def fill(self, rows: np.ndarray, into: np.ndarray) -> None:
        """Fill rows of a batch with the pixels of their views.

        Images are read, decoded and cut in three calls without the interpreter lock.

        Args:
            rows: (n, 2) int64, sample and view numbers; an image is decoded once for rows of its own side by side.
            into: (n, S, S, 3) uint8, C-contiguous.

        Raises: CacheMismatchError when they are not the pixels the teacher saw.
        """
        places = self._reader.rows_of(rows)
        views = np.empty((len(rows), len(VIEW_FIELDS)), np.int32)
        for shard, own in places.parts():
            views[own] = shard.index.views[places.rows[own], rows[own, 1]]
        starts = sample_starts(rows)
        decoded = self._decode_all(places.chosen(starts))
        repeats = np.diff(starts, append=len(rows)).tolist()
        images = [image for image, count in zip(decoded, repeats, strict=True) for _ in range(count)]
        self._replay(images, views, into)
        for at in np.flatnonzero(self._are_checked(rows)).tolist():
            self._compare(into[at], *places.at(at), int(rows[at, 1]))

    def read(self, shard: OpenShard, row: int) -> bytes:
        """The image file of a sample, as the teacher read it.

        Raises: SourceError, CacheMismatchError when the source's file has changed.
        """
        if self._source is None:
            return read_images(ShardRows({0: shard}, np.zeros(1, np.int64), np.array([row])))[0]
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

    def _decode_all(self, places: ShardRows) -> list[np.ndarray]:
        if self._source is None:
            files = read_images(places)
        else:
            files = PackedFiles.of([self.read(*places.at(at)) for at in range(len(places))])
        found = decode_files(files, self._pixel_rule)
        return [
            self._decode(files[at], *places.at(at)) if pixels is None else pixels for at, pixels in enumerate(found)
        ]

    def _decode(self, data: bytes, shard: OpenShard, row: int) -> np.ndarray:
        try:
            return decode_pixels(data, self._pixel_rule)
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

    def _are_checked(self, rows: np.ndarray) -> np.ndarray:
        return rows @ _CHECK_FACTORS % 2**32 < self._check_below

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
