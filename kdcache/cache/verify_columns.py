"""Checking the records of a column: headers against the base's keys, payloads against checksums, finite values."""

import zlib
from collections.abc import Iterator

import numpy as np

from kdcache.cache.base import BaseShard
from kdcache.cache.cache import Cache
from kdcache.cache.column import Column
from kdcache.cache.facts import JPEG
from kdcache.cache.group_index import ColumnIndex, PixelIndex
from kdcache.cache.index import ShardIndex
from kdcache.cache.record import Array
from kdcache.cache.shard import META_MEMBER
from kdcache.cache.tar import read_members
from kdcache.errors import KdcacheError
from kdcache.storage import open_regular


def record_faults(
    cache: Cache, column: Column, shard: BaseShard, keys: ShardIndex, held: ColumnIndex | PixelIndex
) -> list[tuple[str, str]]:
    """What is wrong with the records of one shard: (key, problem), the key empty where the whole file is meant.

    Args:
        cache: The cache.
        column: A column of it.
        shard: Which shard.
        keys: The index of the base.
        held: What the index of the group says of the column.
    """
    check = _jpeg_faults if column.codec == JPEG else _strided_faults
    try:
        return list(check(cache, column, shard, keys, held))
    except (KdcacheError, OSError) as error:
        return [("", str(error))]


def _strided_faults(
    cache: Cache, column: Column, shard: BaseShard, keys: ShardIndex, held: ColumnIndex | PixelIndex
) -> Iterator[tuple[str, str]]:
    strided = cache.strided(column, shard)
    payloads = strided.payloads()
    strided.check_headers(cache.member_names(keys))
    for record in range(len(payloads)):
        payload = np.ascontiguousarray(payloads[record : record + 1])
        problem = ""
        if zlib.crc32(payload.tobytes()) != int(held.crc32[record]):
            problem = "bytes differ from what was written"
        elif column.kind != "pixels" and not _is_finite(column, strided.layout.unpack(payload)):
            problem = "holds NaN, Inf or an impossible index"
        if problem:
            row, view = divmod(record, cache.num_views)
            yield keys.key(row), f"view {view} {problem}"


def _jpeg_faults(
    cache: Cache, column: Column, shard: BaseShard, keys: ShardIndex, held: ColumnIndex | PixelIndex
) -> Iterator[tuple[str, str]]:
    assert isinstance(held, PixelIndex)
    path = cache.check_size(column.name, shard)
    members = list(read_members(path))
    meta = cache.groups[column.group].meta
    names = [*cache.member_names(keys, "jpg"), META_MEMBER]
    if [member.name for member in members] != names:
        yield "", f"{len(members)} members found that are not the {len(names)} of the index, in order"
        return
    with open_regular(path) as file:
        for record, member in enumerate(members):
            file.seek(member.offset)
            data = file.read(member.size_bytes)
            if member.name == META_MEMBER:
                if data != meta:
                    yield "", f"{META_MEMBER} is not the fingerprint of this group"
                continue
            row, view = divmod(record, cache.num_views)
            place = int(held.offsets[record]), int(held.sizes[record])
            if zlib.crc32(data) != int(held.crc32[record]) or place != (member.offset, member.size_bytes):
                yield keys.key(row), f"view {view} bytes differ from what was written"


def _is_finite(column: Column, fields: dict[str, Array]) -> bool:
    try:
        return bool(np.isfinite(column.make_codec().decode(fields, tuple(column.shape))).all())
    except IndexError:
        return False
