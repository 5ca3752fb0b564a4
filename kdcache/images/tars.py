"""WebDataset tars of images: ``.tar``, ``.tar.gz``, brace patterns."""

import gzip
import os
import tarfile
import tempfile
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from braceexpand import UnbalancedBracesError, braceexpand  # pyright: ignore[reportAttributeAccessIssue]

from kdcache.errors import SourceError
from kdcache.images.classes import is_dropping
from kdcache.images.decode import EXTENSIONS, image_extension
from kdcache.images.source import UNLABELLED, Source, SourceImage, refuse_duplicates

MAX_COMPRESSION_RATIO = 200
MAX_MEMBER_BYTES = 1 << 30
_PIECE_BYTES = 1 << 20
MAX_LABEL_BYTES = 32
# No data set has as many; a date or an identifier is larger.
MAX_CLASSES = 1_000_000
_MAX_NAMED = 3


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
    image, and the class index as text in ``.cls`` if there is one. Every other member is counted by the reason why it
    is not taken, hidden ones included.

    Args:
        pattern: A path, or a brace pattern such as ``data/train-{000..127}.tar``.

    Raises: SourceError for missing or damaged tars, duplicate keys, samples that are not adjacent or have several
        images to choose from, and labels that are no class index.
    """

    kind = "tar"

    def __init__(self, pattern: str) -> None:
        self.class_names = []
        self.passed_over = Counter[str]()
        images: list[SourceImage] = []
        self._places: list[_Place] = []
        self._files = [_open(path) for path in _expand(pattern)]
        for path, descriptor in self._files:
            for image, place in _read_tar(path, descriptor, self.passed_over):
                images.append(image)
                self._places.append(place)
        self.images = images
        if not images:
            found = f"; passed over: {self.passed_over_text()}" if self.passed_over else ""
            raise SourceError(f"{pattern}: no images in these tars (extensions {', '.join(EXTENSIONS)}){found}")
        self.label_source = ".cls members" if any(image.label != UNLABELLED for image in images) else ""
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
    if not text.isdecimal() or int(text) >= MAX_CLASSES:
        raise SourceError(f"{where} holds {text!r}, wanted a class index such as 17 (below {MAX_CLASSES:,})")
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


def _read_tar(path: Path, descriptor: int, passed_over: "Counter[str]") -> Iterator[tuple[SourceImage, _Place]]:
    """Group the members of one tar; a sample is complete when the next key begins."""
    done: set[str] = set()
    members = _members(path, descriptor, passed_over)
    for key, group in groupby(members, key=lambda member: split_member_name(member.name)[0]):
        images: list[tarfile.TarInfo] = []
        labels: list[tarfile.TarInfo] = []
        for member in group:
            last = member.name.rpartition("/")[2].rpartition(".")[2].lower()
            if last == "cls":
                labels.append(member)
            elif image_extension(member.name):
                images.append(member)
            else:
                passed_over[f".{last}" if "." in member.name.rpartition("/")[2] else "without extension"] += 1
        if not images and not labels:
            continue
        if key in done:
            raise SourceError(
                f"{path}: members of {key!r} are not adjacent, so that they are no sample; pack the tar again "
                "with its members sorted by name"
            )
        done.add(key)
        if not images:
            passed_over["labels without an image"] += 1
            continue
        image = _one_image(path, key, images)
        if len(labels) > 1:
            raise SourceError(f"{path}: {key!r} has {len(labels)} labels: {_named(labels)}; leave one")
        passed_over.update(["further images of a sample"] * (len(images) - 1))
        yield _complete(
            path, descriptor, key, image, _read_label(path, descriptor, labels[0]) if labels else UNLABELLED
        )


def _one_image(path: Path, key: str, images: list[tarfile.TarInfo]) -> tarfile.TarInfo:
    """The image of a sample: ``x.jpg`` before ``x.depth.png``. Raises: SourceError where that does not decide."""
    plain = [member for member in images if "." not in split_member_name(member.name)[1]]
    if len(images) == 1 or len(plain) == 1:
        return (plain or images)[0]
    if plain:
        raise SourceError(f"{path}: {key!r} has {len(plain)} images: {_named(plain)}; leave one in each sample")
    raise SourceError(
        f"{path}: {len(images)} images share the key {key!r}: {_named(images)}; a key ends at the first dot of a name "
        "(WebDataset's rule), so rename them without dots, or unpack them into a folder"
    )


def _named(members: list[tarfile.TarInfo]) -> str:
    names = [member.name for member in members]
    return ", ".join(names[:_MAX_NAMED]) + (", …" if len(names) > _MAX_NAMED else "")


def _members(path: Path, descriptor: int, passed_over: "Counter[str]") -> Iterator[tarfile.TarInfo]:
    """The files of a tar that may belong to a sample; all others are counted."""
    with os.fdopen(os.dup(descriptor), "rb") as file:
        file.seek(0)
        total = os.fstat(descriptor).st_size
        try:
            with tarfile.open(fileobj=file, mode="r:") as tar:
                for member in tar:
                    if reason := _unusable(member):
                        passed_over[reason] += 1
                    elif member.offset_data + member.size > total:
                        raise tarfile.ReadError(f"{member.name} goes beyond the end of the file")
                    elif not member.isdir():
                        yield member
                _require_end(tar, total)
        except (tarfile.TarError, EOFError) as error:
            raise SourceError(f"{path}: truncated or damaged tar ({error}); fetch it again") from None


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
