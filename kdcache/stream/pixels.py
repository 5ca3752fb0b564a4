"""Where the pixels of a batch come from: stored views gathered or decoded, or views replayed from the images."""

from collections.abc import Sequence
from typing import Literal, Protocol, final

import numpy as np

from kdcache.cache.cache import Cache
from kdcache.cache.column import Column
from kdcache.cache.facts import RAW
from kdcache.errors import BadImageError, CorruptCacheError, Remedy, UsageError
from kdcache.images import decode_jpegs_into, decode_pixels
from kdcache.reading.pieces import read_jpegs
from kdcache.reading.reader import ShardReader

PixelOrigin = Literal["auto", "stored", "replay"]


class PixelFiller(Protocol):
    """Fills rows of a batch with the pixels of their views; used by several threads at once."""

    def fill(self, rows: np.ndarray, into: np.ndarray) -> None:
        """Fill rows.

        Args:
            rows: (n, 2) int64, sample and view numbers; an image is decoded once for rows of its own side by side.
            into: (n, S, S, 3) uint8, C-contiguous.
        """
        ...


def stored_pixels(cache: Cache, origin: PixelOrigin) -> Column | None:
    """The column that a stream takes its pixels from; None where it replays views.

    Args:
        cache: The cache.
        origin: ``auto`` takes stored pixels where there are any.

    Raises: UsageError where stored pixels are wanted and there are none.
    """
    column = cache.pixel_column if origin != "replay" else None
    if origin == "stored" and column is None:
        raise UsageError(
            f"{cache.paths}: no stored pixels", remedy=Remedy.ADD_PIXELS, wanted="pixels", held=[*cache.groups]
        )
    return column


def can_deliver_pixels(cache: Cache, origin: PixelOrigin, *, has_source: bool) -> bool:
    """Whether a stream can deliver views: stored ones, or replayed from images in the cache or its source.

    Args:
        cache: The cache.
        origin: As in `stored_pixels`.
        has_source: Whether the source of the images is at hand.

    Raises: as `stored_pixels`.
    """
    if stored_pixels(cache, origin) is not None:
        return True
    return has_source or cache.manifest.fingerprint.images == "embed"


@final
class StoredJpegs:
    """Pixels decoded from the JPEG files that a cache stores of its views. No image is needed, and no hash compared:
    the files are checked as those of any column.

    Args:
        reader: Opens the shards, this column among them.
        column: Of JPEG files.
    """

    def __init__(self, reader: ShardReader, column: Column) -> None:
        self._reader, self._column = reader, column

    def fill(self, rows: np.ndarray, into: np.ndarray) -> None:
        """See PixelFiller. Raises: CorruptCacheError."""
        places = self._reader.rows_of(rows)
        files = read_jpegs(places, rows[:, 1], self._column.name, self._reader.cache.num_views)
        for at in np.flatnonzero(~decode_jpegs_into(files, into)).tolist():
            try:
                into[at] = decode_pixels(files[at])
            except (BadImageError, ValueError) as error:
                shard, row = places.at(at)
                raise CorruptCacheError(
                    f"{shard.name}, key {shard.index.key(row)!r}, view {rows[at, 1]}: the stored JPEG does not decode "
                    f"({error})",
                    remedy=Remedy.REPAIR,
                ) from None


def gathered(columns: Sequence[Column], pixels: Column | None) -> list[Column]:
    """Columns whose records are gathered by address: the targets and, if they are stored raw, the pixels."""
    return [*columns, *([pixels] if pixels is not None and pixels.codec == RAW else [])]
