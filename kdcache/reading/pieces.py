"""Pieces of open files whose places an index knows, embedded images and stored JPEGs: many read in one call."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import numpy as np

from kdcache.cache.paths import SAMPLES
from kdcache.packed import PackedFiles, one_after_another
from kdcache.reading.files import OpenFile, _gather
from kdcache.reading.open_shard import OpenShard


@final
@dataclass(frozen=True)
class ShardRows:
    """Rows of samples in open shards.

    Args:
        shards: By number.
        numbers: (n,) int64, the shard of each row.
        rows: (n,) int64, the row in it.
    """

    shards: Mapping[int, OpenShard]
    numbers: np.ndarray
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def at(self, chosen: int) -> tuple[OpenShard, int]:
        """Shard and row of one."""
        return self.shards[int(self.numbers[chosen])], int(self.rows[chosen])

    def parts(self) -> list[tuple[OpenShard, np.ndarray]]:
        """Each shard, with the positions of its rows, (m,) int64."""
        return [(shard, np.flatnonzero(self.numbers == number)) for number, shard in self.shards.items()]

    def chosen(self, positions: np.ndarray) -> "ShardRows":
        """Some of them, by position."""
        return ShardRows(self.shards, self.numbers[positions], self.rows[positions])


def read_images(rows: ShardRows) -> PackedFiles:
    """The embedded source images of samples. Raises: CorruptCacheError."""
    places = np.empty((len(rows), 2), np.int64)
    for shard, own in rows.parts():
        places[own, 0] = shard.index.image_offsets[rows.rows[own]]
        places[own, 1] = shard.index.image_sizes[rows.rows[own]]
    return _read(rows, SAMPLES, places)


def read_jpegs(rows: ShardRows, views: np.ndarray, part: str, num_views: int) -> PackedFiles:
    """The stored JPEGs of views, compared with their checksums if those are known.

    Args:
        rows: Of the samples.
        views: (n,) view numbers.
        part: Name of the column.
        num_views: Of each sample.

    Raises: CorruptCacheError.
    """
    places = np.empty((len(rows), 2), np.int64)
    for shard, own in rows.parts():
        assert shard.jpegs is not None, "the reader was not asked for this column"
        records = rows.rows[own] * num_views + views[own]
        places[own, 0], places[own, 1] = shard.jpegs.offsets[records], shard.jpegs.sizes[records]
    files = _read(rows, part, places)
    for shard, own in rows.parts():
        for at in own.tolist() if part in shard.sums else ():
            shard.check_record(part, int(rows.rows[at]), int(views[at]), num_views, [files[at]])
    return files


def _read(rows: ShardRows, part: str, places: np.ndarray) -> PackedFiles:
    files = {number: shard.files[part] for number, shard in rows.shards.items()}
    packed = PackedFiles(np.empty(int(places[:, 1].sum()), np.uint8), one_after_another(places[:, 1]))
    first = 0
    if _gather is not None:
        pieces = np.empty((len(rows), 3), np.int64)
        pieces[:, 1:] = places
        for number, file in files.items():
            pieces[rows.numbers == number, 0] = file.descriptor
        first = _gather.read(pieces, packed.data)
    for at in range(first, len(rows)) if first >= 0 else ():
        _read_one(files[int(rows.numbers[at])], packed, at, int(places[at, 0]))
    return packed


def _read_one(file: OpenFile, packed: PackedFiles, at: int, offset: int) -> None:
    start, size = packed.places[at].tolist()
    file.read_exactly([packed.data.data[start : start + size]], offset, size)
