"""Shards of a column: plain tars that are also strided arrays.

Every record has the same size, so record i starts at ``i * stride`` and a batch is gathered without parsing. Behind the
last record one more member, ``__kdcache__``, holds the fingerprint of the group.
"""

import mmap
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kdcache.cache.record import TAR_BLOCK_BYTES, Array, RecordLayout
from kdcache.cache.tar import END_OF_TAR, NAME_BYTES, Member, member_header, member_headers, padding, read_members
from kdcache.durable import NewFile
from kdcache.errors import CorruptCacheError, Remedy
from kdcache.storage import open_regular

META_MEMBER = "__kdcache__"


def member_name(key: str, view: int, extension: str = "npy") -> str:
    """``<key>.v00.npy``: WebDataset reads the views of one key as one sample."""
    return f"{key}.v{view:02d}.{extension}"


def trailer(meta: bytes) -> bytes:
    """What follows the records of a column shard: the member with the group's fingerprint, and the end of the tar."""
    return member_header(META_MEMBER, len(meta)) + meta + padding(len(meta)) + END_OF_TAR


def read_meta(path: Path) -> bytes:
    """The bytes of a tar's ``__kdcache__`` member, the first of a samples shard and the last of a column shard.

    Raises: CorruptCacheError for a tar without one.
    """
    found = next((member for member in read_members(path) if member.name == META_MEMBER), None)
    if found is None:
        raise CorruptCacheError(f"{path}: no member {META_MEMBER!r}, so how it was made is unknown; restore the shard")
    with open_regular(path) as file:
        file.seek(found.offset)
        return file.read(found.size_bytes)


class TarWriter:
    """Appends members to a tar under a temporary name; `commit` publishes it (first writer wins).

    Args:
        path: The final name.
    """

    def __init__(self, path: Path) -> None:
        self.file = NewFile(path)

    def append(self, name: str, *parts: bytes | memoryview) -> Member:
        """Add one member made of the parts in order and return where its bytes lie."""
        size_bytes = sum(len(part) for part in parts)
        header = member_header(name, size_bytes)
        member = Member(name, self.file.size_bytes + len(header), size_bytes)
        for part in (header, *parts, padding(size_bytes)):
            self.file.write(part)
        return member

    def commit(self) -> None:
        """Write the end mark and make the tar visible."""
        self.file.write(END_OF_TAR)
        self.file.commit()

    def discard(self) -> None:
        """Remove an uncommitted tar; after `commit` this does nothing."""
        self.file.__exit__(None, None, None)


def append_records(tar: TarWriter, layout: RecordLayout, names: Sequence[str], payload: Array) -> Array:
    """Append packed records.

    Args:
        tar: The column's tar.
        layout: The column's layout.
        names: Member names, one a record.
        payload: (B, payload_bytes) uint8, from RecordLayout.pack.

    Returns: (B,) uint32 crc32 of each payload.
    """
    checksums = np.empty(len(names), np.uint32)
    for row, name in enumerate(names):
        data = payload[row].data
        tar.append(name, layout.header, data)
        checksums[row] = zlib.crc32(data)
    return checksums


@dataclass(frozen=True)
class StridedShard:
    """A column shard mapped as arrays.

    Args:
        path: The tar.
        layout: The column's layout.
        num_records: Records it holds.
        meta: The fingerprint that must lie behind the records.
    """

    path: Path
    layout: RecordLayout
    num_records: int
    meta: bytes

    @property
    def size_bytes(self) -> int:
        """The size such a shard must have, to the byte."""
        return self.num_records * self.layout.stride_bytes + len(trailer(self.meta))

    def payload_offset(self, record: int) -> int:
        """Where the payload of a record starts in the file."""
        return record * self.layout.stride_bytes + self.layout.payload_offset

    def blocks(self) -> Array:
        """Everything from tar header to padding, (records, stride) uint8, mapped read-only.

        Raises: CorruptCacheError when the file does not have exactly the size its records need.
        """
        self._check_size()
        if self.num_records == 0:
            return np.empty((0, self.layout.stride_bytes), np.uint8)
        with open_regular(self.path) as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return np.frombuffer(mapped, np.uint8, self.num_records * self.layout.stride_bytes).reshape(
            self.num_records, self.layout.stride_bytes
        )

    def payloads(self) -> Array:
        """The records' payloads, (records, payload_bytes) uint8, constant stride."""
        start = self.layout.payload_offset
        return self.blocks()[:, start : start + self.layout.payload_bytes]

    def fields(self) -> dict[str, Array]:
        """The fields of all records, {name: (records, *shape)}, constant stride."""
        return self.layout.unpack(self.payloads())

    def check_headers(self, names: Sequence[str]) -> None:
        """Compare every tar and npy header with what this column must have there.

        Args:
            names: The member names wanted, in order.

        Raises: CorruptCacheError with the name found and the name wanted.
        """
        if len(names) != self.num_records:
            raise CorruptCacheError(f"{self.path}: {self.num_records} records found, {len(names)} wanted by the index")
        self._check_size()
        found = self._read_headers()
        wanted = np.empty_like(found)
        wanted[:, :TAR_BLOCK_BYTES] = member_headers(names, self.layout.member_bytes)
        wanted[:, TAR_BLOCK_BYTES:] = np.frombuffer(self.layout.header, np.uint8)
        rows = np.flatnonzero((found != wanted).any(axis=1))
        if not len(rows):
            return self._check_trailer()
        wrong = int(rows[0])
        name = found[wrong].tobytes()[:NAME_BYTES].rstrip(b"\0").decode("ascii", "replace")
        raise CorruptCacheError(
            f"{self.path}: record {wrong} is {name!r}, wanted {names[wrong]!r} with the npy header of this column; "
            "columns are joined by key, never by position",
            remedy=Remedy.REPAIR,
        )

    def _check_size(self) -> None:
        found = self.path.stat().st_size
        if found != self.size_bytes:
            raise CorruptCacheError(
                f"{self.path}: {found} bytes found, {self.size_bytes} wanted for {self.num_records} records; the shard "
                "is truncated or damaged",
                remedy=Remedy.REPAIR,
            )

    def _check_trailer(self) -> None:
        with open_regular(self.path) as file:
            file.seek(self.num_records * self.layout.stride_bytes)
            if file.read() == trailer(self.meta):
                return
        raise CorruptCacheError(
            f"{self.path}: the member {META_MEMBER!r} behind the records is not the fingerprint of this group; the "
            "shard is of another plan or damaged",
            remedy=Remedy.REPAIR,
        )

    def _read_headers(self) -> Array:
        # Not through a map: the bytes between the headers stay where they are, and a file may become shorter meanwhile.
        headers = np.zeros((self.num_records, self.layout.payload_offset), np.uint8)
        with open_regular(self.path) as file:
            for record, header in enumerate(headers):
                os.preadv(file.fileno(), [header.data], record * self.layout.stride_bytes)
        return headers
