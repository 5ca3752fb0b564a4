"""JPEG files: decoded many at a time with Pillow's pixels, and encoded by Pillow.

An extension decodes many files in one call, without the interpreter lock, by the libjpeg-turbo that Pillow has loaded:
a small file takes a fifth of the time that it takes by Pillow's objects, and threads decode side by side. It takes
sequential and progressive files with Huffman codes in grey, YCbCr or RGB; Pillow decides about all others, and about
files of which the library has as much as a warning.
"""

import io
import math
from functools import cache

import numpy as np
from PIL import Image, _imaging, features

from kdcache.packed import PackedFiles

try:
    from kdcache.images import _jpeg
except ImportError:  # not built: Pillow decodes the same pixels
    _jpeg = None

MAX_PIXELS = 64_000_000


def sizes_of(files: PackedFiles) -> np.ndarray:
    """(n, 2) int64, height and width in pixels of each file that the extension may decode, from its header; else 0."""
    assert _jpeg is not None
    sizes = np.empty((len(files), 2), np.int64)
    _jpeg.sizes_of(files.data, files.places, sizes)
    return sizes


def decode_jpegs(files: PackedFiles) -> list[np.ndarray | None]:
    """Pixels of JPEG files, the same as Pillow's, decoded in one call without the interpreter lock.

    Args:
        files: JPEG files or others.

    Returns: (H, W, 3) uint8 of each, views of one block of memory; None where Pillow decides: the extension is not
        built, or the file is damaged, is no JPEG or is none of the kinds that it takes.
    """
    if not can_decode():
        return [None] * len(files)
    sizes = sizes_of(files)
    num_bytes = 3 * sizes.prod(axis=1)
    ends = np.cumsum(num_bytes)
    memory = np.empty(int(ends[-1]) if len(ends) else 0, np.uint8)
    assert _jpeg is not None
    is_decoded = _jpeg.decode(files.data, files.places, ends - num_bytes, memory)
    images: list[np.ndarray]
    if len(files) and (sizes == sizes[0]).all():
        images = list(memory.reshape(len(files), *sizes[0].tolist(), 3))
    else:
        bounds = zip([0, *ends.tolist()], ends.tolist(), sizes.tolist(), strict=False)
        images = [memory[first:end].reshape(*size, 3) for first, end, size in bounds]
    return [image if is_fine else None for image, is_fine in zip(images, is_decoded, strict=True)]


def decode_jpegs_into(files: PackedFiles, out: np.ndarray) -> np.ndarray:
    """Fill rows with the pixels of JPEG files, as `decode_jpegs` gives them.

    Args:
        files: One for each row.
        out: (n, H, W, 3) uint8, C-contiguous.

    Returns: (n,) bool, which rows were filled; Pillow decides about the others.
    """
    if not can_decode():
        return np.zeros(len(files), bool)
    assert _jpeg is not None
    wanted = (sizes_of(files) == out.shape[1:3]).all(axis=1)
    starts = np.where(wanted, np.arange(len(files)) * math.prod(out.shape[1:]), -1)
    return np.frombuffer(_jpeg.decode(files.data, files.places, starts, out), np.uint8).astype(bool)


def decode_jpeg(data: bytes) -> np.ndarray | None:
    """Pixels of one JPEG, (H, W, 3) uint8; see `decode_jpegs`."""
    return decode_jpegs(PackedFiles.of([data]))[0]


def encode_jpeg(pixels: np.ndarray, quality: int) -> bytes:
    """A baseline JPEG, its colour at half resolution; the same bytes for the same versions of the libraries.

    Chroma subsampling of 4:2:0 is what cameras and ImageNet have: 22 % smaller than 4:4:4 at quality 95, and decoded
    in four fifths of the time. By Pillow, which is always installed: files must not depend on whether an optional
    decoder is.

    Args:
        pixels: (H, W, 3) uint8.
        quality: 1 to 100, libjpeg's scale.

    Raises: ValueError for other pixels and qualities.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        raise ValueError(f"pixels must be uint8 of shape (H, W, 3), got {pixels.dtype} {pixels.shape}")
    if not 1 <= quality <= 100:
        raise ValueError(f"quality must be between 1 and 100, got {quality}")
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "JPEG", quality=quality, subsampling="4:2:0")
    return buffer.getvalue()


@cache
def can_decode() -> bool:
    """Whether the extension is built, finds libjpeg-turbo in the Pillow that is installed, and gives its pixels.

    A few small files are decoded both ways to find out, once a process: a Pillow of a Linux distribution may be built
    with another libjpeg.
    """
    if _jpeg is None or not features.check_feature("libjpeg_turbo") or not _jpeg.load(_imaging.__file__):
        return False
    for data in _probes():
        files = PackedFiles.of([data])
        with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
            pillows = np.asarray(image.convert("RGB"))
        ours = np.empty((1, *pillows.shape), np.uint8)
        is_decoded = _jpeg.decode(files.data, files.places, np.zeros(1, np.int64), ours)
        if not all(is_decoded) or not np.array_equal(ours[0], pillows):
            return False
    return True


def _probes() -> list[bytes]:
    noise = np.random.default_rng(0).integers(0, 256, (9, 11, 3), dtype=np.uint8)
    image = Image.fromarray(noise).resize((37, 29))
    files: list[bytes] = []
    for subsampling in (0, 1, 2):  # 4:4:4, 4:2:2, 4:2:0
        for is_progressive in (False, True):
            buffer = io.BytesIO()
            image.save(buffer, "JPEG", quality=85, subsampling=subsampling, progressive=is_progressive)
            files.append(buffer.getvalue())
    return files
