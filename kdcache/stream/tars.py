"""WebDataset tars of features that others wrote: one ``.npy`` or ``.safetensors`` member a sample, found in place.

Nothing in them is constant but what a member says of itself: offsets are collected by walking the tars once, and every
member must begin like the first. There are no hashes, so damage inside the numbers goes unnoticed.
"""

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from kdcache.cache.facts import ColumnFacts
from kdcache.cache.record import RecordField
from kdcache.errors import SourceError
from kdcache.images.source import UNLABELLED
from kdcache.images.tars import MAX_LABEL_BYTES, expand_braces, parse_class, split_member_name

_CODECS = {"<f4": "fp32", "<f2": "fp16", "F32": "fp32", "F16": "fp16", "BF16": "bf16"}
_DTYPES = {"fp32": "<f4", "fp16": "<f2", "bf16": "<u2"}
_MAX_HEADER_BYTES = 1 << 20

# Per extension of one sample: where the member's bytes lie, how many there are, and the header they begin with.
_Members = dict[str, tuple[int, int, bytes]]


@dataclass(frozen=True)
class ForeignArray:
    """One array of every sample.

    Args:
        name: The member's extension, with ``:tensor`` behind it for safetensors.
        codec: fp32, fp16 or bf16.
        shape: Of one sample.
        offset: From the start of the member to the numbers.
    """

    name: str
    codec: str
    shape: tuple[int, ...]
    offset: int

    def facts(self) -> ColumnFacts:
        """The array as a column that targets refer to."""
        return ColumnFacts(
            name=self.name, tap=self.name, kind="foreign", codec=self.codec, params={}, shape=list(self.shape),
            grid=[], stride_bytes=0,
        )  # fmt: skip

    def field(self) -> RecordField:
        """The numbers of one sample."""
        return RecordField("values", np.dtype(_DTYPES[self.codec]), self.shape, 0)


@dataclass(frozen=True)
class ForeignTars:
    """What walking the tars has found.

    Args:
        paths: The tars.
        file_bytes: Their sizes.
        shard_sizes: Samples in each.
        arrays: What each sample holds.
        offsets: (samples, arrays) int64, where the numbers lie in their tar.
        labels: (samples,) int64 from ``.cls`` members, -1 without one.
        digest: Identity of names, places, labels and the arrays' headers, hex.
    """

    paths: list[Path]
    file_bytes: list[int]
    shard_sizes: list[int]
    arrays: list[ForeignArray]
    offsets: np.ndarray
    labels: np.ndarray
    digest: str


def open_tars(pattern: str, extensions: Sequence[str] = ("npy",)) -> ForeignTars:
    """Walk uncompressed tars and note where the features lie.

    Args:
        pattern: A path or a brace pattern.
        extensions: Members to read: ``npy``, ``feat.npy``, ``safetensors``, … All tensors of a safetensors member are
            read. Every sample must have them all.

    Raises: SourceError naming tar and member.
    """
    paths = expand_braces(pattern)
    arrays: dict[str, list[ForeignArray]] = {}
    headers: dict[str, bytes] = {}
    shard_sizes: list[int] = []
    offsets: list[list[int]] = []
    labels: list[int] = []
    digest = hashlib.sha256()
    for path in paths:
        before = len(offsets)
        for key, members in _samples(path):
            where = f"{path}, {key}"
            for extension in extensions:
                if extension not in members:
                    raise SourceError(f"{where}: no member .{extension}; it has {', '.join(sorted(members))}")
                _, size, header = members[extension]
                if extension not in arrays:
                    arrays[extension], headers[extension] = _arrays(extension, header, f"{where}.{extension}"), header
                _check_member(f"{where}.{extension}", header, headers[extension], size, arrays[extension])
            starts = [members[extension][0] + array.offset for extension in extensions for array in arrays[extension]]
            offsets.append(starts)
            labels.append(_label(members, where))
            digest.update(f"{path.name}\0{key}\0{starts}\0{labels[-1]}\n".encode("utf-8", "surrogateescape"))
        shard_sizes.append(len(offsets) - before)
    for header in headers.values():
        digest.update(header)
    if not offsets:
        raise SourceError(f"{pattern}: no samples in these tars")
    return ForeignTars(
        paths=paths,
        file_bytes=[path.stat().st_size for path in paths],
        shard_sizes=shard_sizes,
        arrays=[array for extension in extensions for array in arrays[extension]],
        offsets=np.array(offsets, np.int64),
        labels=np.array(labels, np.int64),
        digest=digest.hexdigest(),
    )


def _check_member(where: str, header: bytes, wanted: bytes, size: int, arrays: list[ForeignArray]) -> None:
    if header != wanted:
        raise SourceError(
            f"{where}: begins differently from the first member of its kind (another shape or type?): {header[:80]!r} "
            f"found, {wanted[:80]!r} wanted; only arrays that are all alike can be streamed"
        )
    end = max(array.offset + array.field().size_bytes for array in arrays)
    if size < end:
        raise SourceError(f"{where}: {size} bytes found, {end} wanted by its own header; it is cut off")


def _samples(path: Path) -> Iterator[tuple[str, _Members]]:
    key, members = "", _Members()
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                if not member.isreg() or member.issparse():
                    continue
                stem, extension = split_member_name(member.name)
                if stem != key and members:
                    yield key, members
                    members = _Members()
                key = stem
                file = tar.extractfile(member)
                assert file is not None
                members[extension] = member.offset_data, member.size, _header(extension, file)
        if members:
            yield key, members
    except (tarfile.TarError, OSError) as error:
        raise SourceError(
            f"{path}: not a readable, uncompressed tar ({error}); unpack it if it is compressed"
        ) from None


def _header(extension: str, file: IO[bytes]) -> bytes:
    """What describes the numbers of a member, or all of a label; nothing of other members."""
    if extension == "cls":
        return file.read(MAX_LABEL_BYTES)
    if extension.endswith("npy"):
        start = file.read(10)
        return start + file.read(int.from_bytes(start[8:10], "little"))
    if extension.endswith("safetensors"):
        start = file.read(8)
        return start + file.read(min(int.from_bytes(start, "little"), _MAX_HEADER_BYTES))
    return b""


def _label(members: _Members, where: str) -> int:
    return parse_class(members["cls"][2], where=f"{where}.cls") if "cls" in members else UNLABELLED


def _arrays(extension: str, header: bytes, where: str) -> list[ForeignArray]:
    try:
        found = _tensors(extension, header) if extension.endswith("safetensors") else [_array(extension, header)]
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise SourceError(
            f"{where}: no array of ours to read ({error}); wanted .npy (version 1, C order) or .safetensors of "
            f"float32, float16 or bfloat16"
        ) from None
    if any(size < 1 for array in found for size in array.shape):
        raise SourceError(f"{where}: an array without numbers, shape {[array.shape for array in found]}")
    return found


def _array(extension: str, header: bytes) -> ForeignArray:
    file = io.BytesIO(header)
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError("npy format other than 1.0")
    shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(file)
    if is_fortran or dtype.str not in _CODECS:
        raise ValueError(f"{dtype.str} in {'Fortran' if is_fortran else 'C'} order")
    return ForeignArray(extension, _CODECS[dtype.str], shape, len(header))


def _tensors(extension: str, header: bytes) -> list[ForeignArray]:
    described = json.loads(header[8:])
    described.pop("__metadata__", None)
    arrays: list[ForeignArray] = []
    for name, each in sorted(described.items()):
        begin, end = each["data_offsets"]
        array = ForeignArray(f"{extension}:{name}", _CODECS[each["dtype"]], tuple(each["shape"]), len(header) + begin)
        if begin < 0 or end - begin != array.field().size_bytes:
            raise ValueError(f"tensor {name} of {array.field().size_bytes} bytes lies at {begin} to {end}")
        arrays.append(array)
    if not arrays:
        raise ValueError("no tensors")
    return arrays
