"""What a file is by its first bytes, whatever its name says: tars are read, all else is refused with its kind."""

import tarfile
import zipfile
from pathlib import Path
from typing import Literal

from kdcache.errors import SourceError

Packing = Literal["", "gzip", "bzip2", "xz"]

_HEAD_BYTES = 2 * tarfile.BLOCKSIZE
_PACKINGS: dict[bytes, Packing] = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz"}
_UNPACK = "unpack it into a folder, and pass that folder"
_EXPORT = "write its images as files into class folders, or into WebDataset tars"
# First bytes, what that is, what to do.
_FOREIGN = [
    (b"PK\x03\x04", "a zip archive", _UNPACK),
    (b"PK\x05\x06", "an empty zip archive", _UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK),
    (b"Rar!", "a RAR archive", _UNPACK),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd", "decompress it first (zstd -d)"),
    (b"\x04\x22\x4d\x18", "compressed by lz4", "decompress it first (lz4 -d)"),
    (b"PAR1", "a Parquet file", _EXPORT),
    (b"ARROW1", "an Arrow file", _EXPORT),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file", _EXPORT),
    (b"\x93NUMPY", "a NumPy array", _EXPORT),
    (b"SQLite format 3", "an SQLite database", _EXPORT),
    (b"\x80\x02", "a pickle or torch file", _EXPORT),
    (b"\x80\x03", "a pickle or torch file", _EXPORT),
    (b"\x80\x04", "a pickle or torch file", _EXPORT),
    (b"\x80\x05", "a pickle or torch file", _EXPORT),
    (b"version https://git-lfs", "a Git LFS pointer in place of the file", "fetch the file itself (git lfs pull)"),
    (b"../.git/annex", "a git-annex pointer in place of the file", "fetch the file itself (git annex get)"),
    (b"/annex/objects", "a git-annex pointer in place of the file", "fetch the file itself (git annex get)"),
    (b"\xff\xd8\xff", "a single image", "pass the folder that holds it"),
    (b"\x89PNG", "a single image", "pass the folder that holds it"),
    (b"GIF8", "a single image", "pass the folder that holds it"),
    (b"BM", "a single image", "pass the folder that holds it"),
    (b"<", "a web page or XML", "fetch the archive itself: a server has answered with a page"),
    (b"{", "a JSON file", "pass the folder or the tars of the images"),
]
_SHOWN_BYTES = 12


def packing_of(path: Path) -> Packing:
    """How a tar is compressed; empty for one that is not.

    Args:
        path: A regular file.

    Raises: SourceError for a file that is no tar, with what it is, or that cannot be read.
    """
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError as error:
        raise SourceError(f"{path}: cannot be read ({error.strerror})") from None
    for magic, packing in _PACKINGS.items():
        if head.startswith(magic):
            return packing
    if not head:
        raise SourceError(f"{path}: an empty file, wanted a tar; fetch it again")
    if _is_tar(head):
        return ""
    for magic, what, advice in _FOREIGN:
        if head.startswith(magic):
            raise SourceError(f"{path}: this is {_kind_of_zip(path) or what}, not a tar; {advice}")
    if path.suffix.lower() in (".csv", ".tsv", ".txt"):
        raise SourceError(f"{path}: this is a list, not a tar; pass the folder or the tars of the images")
    raise SourceError(
        f"{path}: this is not a tar (it begins with {head[:_SHOWN_BYTES]!r}); wanted a tar, or a folder of images; if "
        "it was one, it is damaged: fetch it again"
    )


def _is_tar(head: bytes) -> bool:
    """Whether the first block is a header with the right checksum, or the zeros that end an empty tar."""
    block = head[: tarfile.BLOCKSIZE]
    if not any(head):
        return True
    try:
        tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        # Cut within its first header: a tar all the same, and the reader says that it is truncated.
        return block[257:262] == b"ustar"
    return True


def _kind_of_zip(path: Path) -> str:
    """What a zip archive holds where that says more; empty for other files."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (OSError, zipfile.BadZipFile):
        return ""
    if any(name.endswith("data.pkl") for name in names):
        return "a torch file"
    if names and all(name.endswith(".npy") for name in names):
        return "a NumPy archive (.npz)"
    return ""
