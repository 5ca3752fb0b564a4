"""The members of a tar that may belong to a sample; all others are counted by reason."""

import io
import tarfile
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple, final

from typing_extensions import Buffer, override

from kdcache.errors import SourceError
from kdcache.images.archives import Archives
from kdcache.images.classes import is_dropping

MAX_MEMBER_BYTES = 1 << 30
_BUFFER_BYTES = 1 << 16
_PIECE_BYTES = 1 << 20


class Member(NamedTuple):
    """A file in a tar: its name there, and where its bytes lie."""

    name: str
    offset: int
    size_bytes: int


def members(archives: Archives, number: int, passed_over: "Counter[str]") -> Iterator[Member]:
    """The files of a tar in its order.

    Args:
        archives: Holds the tar.
        number: Which tar.
        passed_over: Gets the others by reason.

    Raises: SourceError for a tar that is truncated or damaged.
    """
    total = archives.size(number)
    with io.BufferedReader(_Window(archives, number), _BUFFER_BYTES) as file:
        try:
            with tarfile.open(fileobj=file, mode="r:") as tar:
                for member in tar:
                    # tarfile keeps every member it has read; of a million none is needed again.
                    tar.members = []  # pyright: ignore[reportAttributeAccessIssue]
                    if reason := _unusable(member):
                        passed_over[reason] += 1
                    elif member.offset_data + member.size > total:
                        raise tarfile.ReadError(f"{member.name} goes beyond the end of the file")
                    elif not member.isdir():
                        yield Member(member.name, member.offset_data, member.size)
                _require_end(tar, total)
                _refuse_more(archives, number, tar.offset, total)
        except (tarfile.TarError, EOFError) as error:
            path = archives.paths[number]
            raise SourceError(f"{path}: truncated or damaged tar ({error}); fetch it again") from None


@final
class _Window(io.RawIOBase):
    """A tar of an archive as a file."""

    def __init__(self, archives: Archives, number: int) -> None:
        self._archives, self._number = archives, number
        self._at = 0

    @override
    def readable(self) -> bool:
        return True

    @override
    def seekable(self) -> bool:
        return True

    @override
    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._archives.size(self._number)}[whence]
        self._at = base + offset
        return self._at

    @override
    def readinto(self, buffer: Buffer, /) -> int:
        view = memoryview(buffer)
        data = self._archives.read(self._number, self._at, len(view))
        view[: len(data)] = data
        self._at += len(data)
        return len(data)


def _unusable(member: tarfile.TarInfo) -> str:
    """Why a member can be no part of a sample; empty for one that can, and for folders."""
    if member.isdir():
        return ""
    if any(is_dropping(part) for part in member.name.split("/") if part not in (".", "..")):
        # With the AppleDouble file ._x.jpg that macOS packs beside each x.jpg.
        return "hidden files"
    if member.issym() or member.islnk():
        return "links"
    # The stated size of a sparse file is not what it holds.
    if not member.isreg() or member.issparse():
        return "special files"
    return "" if member.size <= MAX_MEMBER_BYTES else f"files over {MAX_MEMBER_BYTES >> 30} GiB"


def _refuse_more(archives: Archives, number: int, offset: int, total: int) -> None:
    """Refuse members behind the end mark, which no tar reader would show.

    Raises: SourceError, DiskFullError as `Archives.read`.
    """
    while piece := archives.read(number, offset, min(_PIECE_BYTES, total - offset)):
        at = next((at for at in range(0, len(piece), tarfile.BLOCKSIZE) if any(piece[at : at + tarfile.BLOCKSIZE])), -1)
        if at < 0:
            offset += len(piece)
            continue
        block = archives.read(number, offset + at, tarfile.BLOCKSIZE)
        raise SourceError(
            f"{archives.paths[number]}: there is "
            + ("another tar" if block[257:262] == b"ustar" else f"something else ({block[:12]!r})")
            + " behind its end, as from `cat a.tar b.tar`; its members would be left out: pass the tars one by one"
        )


def _require_end(tar: tarfile.TarFile, total: int) -> None:
    # tarfile takes a cut at a block boundary for the end; only two blocks of zeros are.
    if tar.offset + tarfile.BLOCKSIZE > total:
        raise tarfile.ReadError("no end mark")
