"""Images of a base that is there already: read again, and proved to be the ones that were committed."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from kdcache.cache.cache import open_cache
from kdcache.cache.index import ShardIndex
from kdcache.cache.writer import BadSample
from kdcache.errors import CacheMismatchError
from kdcache.images import Source
from kdcache.reading.reader import ShardReader
from kdcache.remote import Location
from kdcache.stream.images import ViewReplayer
from kdcache.teacher.reading import ImageReader, ReadImage


@dataclass(frozen=True)
class CommittedReader:
    """Reads images of a plan whose shard is committed already, and compares each with what was committed.

    Args:
        reader: Reads them as they were read the first time.
        first: Number of the shard's first image in the plan.
        index: Of the committed shard.
        rows: For each image of the plan of this shard its row in the index; None for those in the ledger.
    """

    reader: ImageReader
    first: int
    index: ShardIndex
    rows: dict[int, int | None]

    def read(self, number: int) -> ReadImage:
        """See Reader. Raises: CacheMismatchError when the image is not the one that was committed."""
        image = self.reader.read(number)
        row = self.rows[number - self.first]
        assert row is not None, "images in the ledger are not read again"
        if image.sample != self.index.sample(row):
            raise CacheMismatchError(
                f"key {image.sample.key!r}: the image or its views are not those that were committed before the "
                "interruption; restore the source, or extract again into another folder"
            )
        return image

    def key(self, number: int) -> str:
        """See Reader."""
        return self.reader.key(number)

    def bad(self, number: int, reason: str) -> BadSample:
        """See Reader; only what the ledger names already may be bad."""
        if self.rows[number - self.first] is None:
            return self.reader.bad(number, reason)
        raise _unreadable(self.reader.key(number), reason)


@dataclass(frozen=True)
class ReplayReader:
    """Replays the views of a finished base, numbered as its samples are; every pixel hash is compared.

    Args:
        root: The cache.
        source: The images, for a base that refers to them.
    """

    root: Location
    source: Source | None

    def read(self, number: int) -> ReadImage:
        """See Reader. Raises: CacheMismatchError when the pixels are not those of the base."""
        reader, replayer = self._opened
        shard, row = reader.locate(number)
        views = range(reader.cache.num_views)
        pixels = np.stack(list(replayer.pixels(shard, row, number, views)))
        return ReadImage(shard.index.sample(row), b"", "", pixels)

    def key(self, number: int) -> str:
        """See Reader."""
        shard, row = self._opened[0].locate(number)
        return shard.index.key(row)

    def bad(self, number: int, reason: str) -> BadSample:
        """See Reader. Raises: CacheMismatchError, for the base has this image."""
        raise _unreadable(self.key(number), reason)

    def check(self) -> None:
        """Open everything now. Raises: SourceError when the base needs a source and this one lacks its images."""
        _ = self._opened

    @cached_property
    def _opened(self) -> tuple[ShardReader, ViewReplayer]:
        cache = open_cache(self.root)
        reader = ShardReader(cache, [])
        return reader, ViewReplayer(cache, reader, self.source, check_share=1.0)

    def __getstate__(self) -> dict[str, Any]:
        # Open files cannot be sent to another process; it opens its own.
        return {"root": self.root, "source": self.source}


def _unreadable(key: str, reason: str) -> CacheMismatchError:
    return CacheMismatchError(
        f"key {key!r}: this image is in the base and cannot be read now ({reason}); restore the source, or extract "
        "again into another folder"
    )
