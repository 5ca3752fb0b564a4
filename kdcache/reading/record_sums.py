"""The checksum of every record that is read, compared with the one in the index of its shard."""

import zlib
from collections.abc import Mapping, Sequence

import numpy as np
from typing_extensions import Buffer

from kdcache.cache.base import BaseShard
from kdcache.cache.cache import Cache
from kdcache.cache.column import Column
from kdcache.errors import CorruptCacheError, Remedy

# By column: (records,) uint32, the CRC-32 of each payload of a shard.
RecordSums = Mapping[str, np.ndarray]


def read_sums(cache: Cache, shard: BaseShard, columns: Sequence[Column]) -> dict[str, np.ndarray]:
    """The checksums of a shard's records. Raises: CorruptCacheError for an index that is not what was written."""
    sums: dict[str, np.ndarray] = {}
    for name in dict.fromkeys(column.group for column in columns):
        index = cache.group_index(cache.group(name), shard)
        held = {**index.columns, **index.pixels}
        sums |= {column.name: held[column.facts.name].crc32 for column in columns if column.group == name}
    return sums


def check_record(fields: Sequence[Buffer], wanted: int, *, where: str) -> None:
    """Compare the bytes of one record with its checksum.

    Args:
        fields: Of the record, in their order in the file.
        wanted: CRC-32 of all of them.
        where: File, key and view, for the message.

    Raises: CorruptCacheError.
    """
    found = 0
    for field in fields:
        found = zlib.crc32(field, found)
    if found != wanted:
        raise CorruptCacheError(f"{where}: the record's bytes are not those that were written", remedy=Remedy.REPAIR)
