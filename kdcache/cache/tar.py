"""USTAR, the part of it this format uses: one 512-byte header, the bytes, zeros up to the next block.

Written here and not with ``tarfile`` because headers must be constant (same plan, same bytes) and because a reader of a
damaged or hostile tar must refuse everything that is not an ordinary file of ours.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kdcache.cache.record import TAR_BLOCK_BYTES, Array
from kdcache.errors import CorruptCacheError, Remedy
from kdcache.storage import open_regular

END_OF_TAR = b"\0" * (2 * TAR_BLOCK_BYTES)
NAME_BYTES = 100
_CHECKSUM = slice(148, 156)
_CHECKSUM_DIGITS = 6
_SIZE = slice(124, 136)
_FIXED_FIELDS = (
    (100, b"0000444\0"),  # mode: read-only for everyone
    (108, b"0000000\0"),  # uid
    (116, b"0000000\0"),  # gid
    (136, b"00000000000\0"),  # mtime
    (156, b"0"),  # typeflag: ordinary file
    (257, b"ustar\x0000"),
)


@dataclass(frozen=True)
class Member:
    """One file inside a tar.

    Args:
        name: As stored.
        offset: Where its bytes start in the tar.
        size_bytes: How many there are.
    """

    name: str
    offset: int
    size_bytes: int


def member_header(name: str, size_bytes: int) -> bytes:
    """The 512-byte header of an ordinary file.

    Raises: ValueError when the name does not fit or the size needs more than 11 octal digits (8 GiB).
    """
    encoded = name.encode("ascii")
    if not 0 < len(encoded) <= NAME_BYTES:
        raise ValueError(f"tar member name must have 1 to {NAME_BYTES} ASCII bytes, got {name!r}")
    if not 0 <= size_bytes < 8**11:
        raise ValueError(f"tar member {name!r} must be smaller than 8 GiB, got {size_bytes} bytes")
    header = bytearray(TAR_BLOCK_BYTES)
    header[: len(encoded)] = encoded
    for offset, value in _FIXED_FIELDS:
        header[offset : offset + len(value)] = value
    header[_SIZE] = b"%011o\0" % size_bytes
    header[_CHECKSUM] = b" " * 8
    header[_CHECKSUM] = b"%06o\0 " % sum(header)
    return bytes(header)


def member_headers(names: Sequence[str], size_bytes: int) -> Array:
    """The headers of many files of one size, (n, 512) uint8: row i is `member_header(names[i], size_bytes)`.

    Raises: ValueError as `member_header` does.
    """
    if not names:
        return np.empty((0, TAR_BLOCK_BYTES), np.uint8)
    longest = max(names, key=len)
    headers = np.tile(np.frombuffer(member_header(longest, size_bytes), np.uint8), (len(names), 1))
    encoded = np.array([name.encode("ascii") for name in names], f"S{NAME_BYTES}")
    headers[:, :NAME_BYTES] = encoded.view(np.uint8).reshape(-1, NAME_BYTES)
    headers[:, _CHECKSUM] = ord(" ")
    sums = headers.sum(axis=1, dtype=np.int64)
    for digit in range(_CHECKSUM_DIGITS):
        headers[:, _CHECKSUM.start + digit] = ord("0") + (sums >> (3 * (_CHECKSUM_DIGITS - 1 - digit))) % 8
    headers[:, _CHECKSUM.start + _CHECKSUM_DIGITS] = 0
    return headers


def padding(size_bytes: int) -> bytes:
    """Zeros from the end of a member to the next block."""
    return b"\0" * (-size_bytes % TAR_BLOCK_BYTES)


def read_members(path: Path) -> Iterator[Member]:
    """Walk a tar of ours, header by header.

    Raises: CorruptCacheError at the first header this module would not have written, and for a tar that ends early.
    """
    total = path.stat().st_size
    with open_regular(path) as file:
        offset = 0
        while True:
            file.seek(offset)
            header = file.read(TAR_BLOCK_BYTES)
            if header == END_OF_TAR[:TAR_BLOCK_BYTES]:
                if file.read() != END_OF_TAR[TAR_BLOCK_BYTES:]:
                    raise CorruptCacheError(
                        f"{path}: unexpected bytes behind the end mark at byte {offset}", remedy=Remedy.REPAIR
                    )
                return
            member = _parse_header(header, offset, path)
            offset = member.offset + member.size_bytes + len(padding(member.size_bytes))
            if offset + len(END_OF_TAR) > total:
                raise CorruptCacheError(
                    f"{path}: ends inside member {member.name!r} ({total} bytes)", remedy=Remedy.REPAIR
                )
            yield member


def _parse_header(header: bytes, offset: int, path: Path) -> Member:
    try:
        name = header[:NAME_BYTES].rstrip(b"\0").decode("ascii")
        size_bytes = int(header[_SIZE].rstrip(b"\0"), 8)
        if header == member_header(name, size_bytes):
            return Member(name, offset + TAR_BLOCK_BYTES, size_bytes)
    except ValueError:
        pass
    raise CorruptCacheError(
        f"{path}: no tar header of this format at byte {offset}; the shard is truncated or damaged",
        remedy=Remedy.REPAIR,
    )
