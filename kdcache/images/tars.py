"""WebDataset tars of images: ``.tar``, ``.tar.gz``, brace patterns."""

import gzip
import os
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from braceexpand import UnbalancedBracesError, braceexpand  # pyright: ignore[reportAttributeAccessIssue]

from kdcache.errors import SourceError
from kdcache.images.decode import EXTENSIONS, image_extension
from kdcache.images.source import UNLABELLED, Source, SourceImage, refuse_duplicates

MAX_COMPRESSION_RATIO = 200
MAX_MEMBER_BYTES = 1 << 30
_PIECE_BYTES = 1 << 20
MAX_LABEL_BYTES = 32


@dataclass(frozen=True)
class _Place:
    """Where an image's bytes lie."""

    path: Path
    descriptor: int
    offset: int
    size_bytes: int


class TarSource(Source):
    """Images of one or more tars, read in place; a compressed tar is first unpacked into an anonymous temporary file.

    A sample is all members that share a name up to the first dot of the last path component (WebDataset's rule): one
    image, and the class index as text in ``.cls`` if there is one. Other members are ignored.

    Args:
        pattern: A path, or a brace pattern such as ``data/train-{000..127}.tar``.

    Raises: SourceError for missing or damaged tars, duplicate keys, and labels that are no integers.
    """

    kind = "tar"

    def __init__(self, pattern: str) -> None:
        self.class_names = []
        images: list[SourceImage] = []
        self._places: list[_Place] = []
        self._files = [_open(path) for path in _expand(pattern)]
        for path, descriptor in self._files:
            for image, place in _read_tar(path, descriptor):
                images.append(image)
                self._places.append(place)
        self.images = images
        if not images:
            raise SourceError(f"{pattern}: no images in these tars (extensions {', '.join(EXTENSIONS)})")
        keys = [image.key for image in images]
        refuse_duplicates(list(zip(keys, (str(place.path) for place in self._places), strict=True)))

    def read(self, position: int) -> bytes:
        place = self._places[position]
        data = os.pread(place.descriptor, place.size_bytes, place.offset)
        if len(data) != place.size_bytes:
            raise SourceError(f"{place.path}: became shorter while it was read; restore it and run the command again")
        return data

    def size_bytes(self, position: int) -> int:
        return self._places[position].size_bytes

    def __del__(self) -> None:
        for _, descriptor in getattr(self, "_files", []):
            os.close(descriptor)


def expand_braces(pattern: str) -> list[Path]:
    """The paths a brace pattern names, whether they exist or not. Raises: SourceError for unbalanced braces."""
    try:
        return [Path(text) for text in braceexpand(pattern)]
    except UnbalancedBracesError:
        raise SourceError(f"{pattern}: braces are not balanced; a pattern looks like train-{{000..127}}.tar") from None


def split_member_name(member: str) -> tuple[str, str]:
    """Sample key and extension, parted by the first dot of the last path component: WebDataset's rule."""
    folder, _, name = member.rpartition("/")
    stem, _, extension = name.partition(".")
    return (f"{folder}/{stem}" if folder else stem), extension


def parse_class(data: bytes, *, where: str) -> int:
    """The class index in the bytes of a ``.cls`` member. Raises: SourceError for anything else."""
    text = data.decode("ascii", "replace").strip()
    if not text.isdecimal():
        raise SourceError(f"{where} holds {text!r}, wanted a class index such as 17")
    return int(text)


def _expand(pattern: str) -> list[Path]:
    paths = expand_braces(pattern)
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise SourceError(
            f"{missing[0]}: no such file ({len(missing)} of {len(paths)} tars of {pattern!r} are missing); check the "
            "path"
        )
    return paths


def _open(path: Path) -> tuple[Path, int]:
    if path.suffix not in (".gz", ".tgz"):
        return path, os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    limit = path.stat().st_size * MAX_COMPRESSION_RATIO
    with tempfile.TemporaryFile() as spool, gzip.open(path) as packed:
        try:
            while piece := packed.read(_PIECE_BYTES):
                spool.write(piece)
                if spool.tell() > limit:
                    raise SourceError(f"{path}: unpacks to over {MAX_COMPRESSION_RATIO} times its size; no image tar")
        except (OSError, EOFError, zlib.error) as error:
            raise SourceError(f"{path}: truncated or damaged ({error}); fetch it again") from None
        spool.flush()
        return path, os.dup(spool.fileno())


def _read_tar(path: Path, descriptor: int) -> Iterator[tuple[SourceImage, _Place]]:
    """Group the members of one tar; a sample is complete when the next key begins."""
    key, image, label = "", None, UNLABELLED
    for member in _members(path, descriptor):
        member_key, extension = split_member_name(member.name)
        if member_key != key:
            if image is not None:
                yield _complete(path, descriptor, key, image, label)
            key, image, label = member_key, None, UNLABELLED
        if extension == "cls":
            label = _read_label(path, descriptor, member)
        elif image is None and image_extension(f".{extension}"):
            image = member
    if image is not None:
        yield _complete(path, descriptor, key, image, label)


def _members(path: Path, descriptor: int) -> Iterator[tarfile.TarInfo]:
    with os.fdopen(os.dup(descriptor), "rb") as file:
        file.seek(0)
        total = os.fstat(descriptor).st_size
        try:
            with tarfile.open(fileobj=file, mode="r:") as tar:
                for member in tar:
                    # Links, devices and sparse files (whose stated size is not what they hold) are never images.
                    if member.isreg() and not member.issparse() and member.size <= MAX_MEMBER_BYTES:
                        if member.offset_data + member.size > total:
                            raise tarfile.ReadError(f"{member.name} goes beyond the end of the file")
                        yield member
                _require_end(tar, total)
        except (tarfile.TarError, EOFError) as error:
            raise SourceError(f"{path}: truncated or damaged tar ({error}); fetch it again") from None


def _require_end(tar: tarfile.TarFile, total: int) -> None:
    # tarfile takes a cut at a block boundary for the end; only two blocks of zeros are.
    if tar.offset + tarfile.BLOCKSIZE > total:
        raise tarfile.ReadError("no end mark")


def _complete(path: Path, descriptor: int, key: str, member: tarfile.TarInfo, label: int) -> tuple[SourceImage, _Place]:
    return SourceImage(key, key, image_extension(member.name) or "", label), _Place(
        path, descriptor, member.offset_data, member.size
    )


def _read_label(path: Path, descriptor: int, member: tarfile.TarInfo) -> int:
    data = os.pread(descriptor, min(member.size, MAX_LABEL_BYTES), member.offset_data)
    return parse_class(data, where=f"{path}: {member.name}")
