"""JPEG files: decoded by simplejpeg where it gives Pillow's pixels, and encoded by Pillow.

simplejpeg decodes a small file in a fifth of Pillow's time and without the interpreter lock. Both use
libjpeg-turbo with its exact DCT and its smooth chroma upsampling, so that they agree bit for bit on every sequential or
progressive file with Huffman codes in grey, YCbCr or RGB; CMYK is converted otherwise. It refuses files with as much as
a warning, and Pillow decides about those.
"""

import io
import struct
from collections.abc import Callable
from functools import cache

import numpy as np
from PIL import Image, features

try:
    import simplejpeg
except ImportError:  # optional: Pillow decodes the same pixels
    simplejpeg = None

MAX_PIXELS = 64_000_000
_START = b"\xff\xd8"
# Start-of-frame markers of baseline, extended sequential and progressive files, all with Huffman codes.
_FRAMES = frozenset([0xC0, 0xC1, 0xC2])
# Segments that may come before a frame: tables, restart interval, application data, comment.
_SEGMENTS = frozenset([0xC4, 0xDB, 0xDD, 0xFE, *range(0xE0, 0xF0)])
_FRAME_HEADER = struct.Struct(">BHHB")

Decoder = Callable[[bytes], np.ndarray]


def agreed_size(data: bytes) -> tuple[int, int] | None:
    """(width, height) in pixels of a file for which the two decoders agree, from its header; None for any other.

    Args:
        data: The file's bytes, a JPEG or not.
    """
    if data[:2] != _START:
        return None
    at, end = 2, len(data) - 10
    while at < end and data[at] == 0xFF:
        marker = data[at + 1]
        if marker in _SEGMENTS:
            at += 2 + (data[at + 2] << 8 | data[at + 3])
        elif marker in _FRAMES:
            bits, height, width, components = _FRAME_HEADER.unpack_from(data, at + 4)
            is_agreed = bits == 8 and components in (1, 3) and 0 < width * height <= MAX_PIXELS
            return (width, height) if is_agreed else None
        elif marker == 0xFF:  # padding
            at += 1
        else:
            return None
    return None


def decode_jpeg(data: bytes) -> np.ndarray | None:
    """Pixels of a JPEG by the fast decoder, the same as Pillow's; most of the time without the interpreter lock.

    Args:
        data: The file's bytes.

    Returns: (H, W, 3) uint8; None when the fast decoder is not installed, or when the file is damaged, is no JPEG, or
        is one on which the decoders do not agree: Pillow decides about it.
    """
    decoder = fast_decoder()
    if decoder is None or agreed_size(data) is None:
        return None
    try:
        return decoder(data)
    except ValueError:
        return None


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
def fast_decoder() -> Decoder | None:
    """The fast decoder, if it is installed and gives the pixels of the Pillow that is installed, else None.

    A Pillow of a Linux distribution may be built with another libjpeg, whose chroma upsampling differs; a few small
    files are decoded both ways to find out, once a process.
    """
    if simplejpeg is None or not features.check_feature("libjpeg_turbo"):
        return None
    for data in _probes():
        with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
            pillows = np.asarray(image.convert("RGB"))
        if not np.array_equal(simplejpeg.decode_jpeg(data), pillows):
            return None
    return simplejpeg.decode_jpeg


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
