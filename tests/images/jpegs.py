"""JPEG files of every kind that Pillow writes, and Pillow's pixels of them."""

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kdcache.images.jpeg import can_decode

needs_extension = pytest.mark.skipif(not can_decode(), reason="the extension was not built, or finds no libjpeg-turbo")
SIZES = [(1, 1), (2, 3), (7, 9), (16, 16), (31, 30), (32, 32), (100, 301), (333, 77)]


def encoded(image: Image.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **options)
    return buffer.getvalue()


def by_pillow(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def picture(width: int, height: int, *, is_smooth: bool = True) -> Image.Image:
    random = np.random.default_rng(width * height)
    small = (max(1, height // 3), max(1, width // 3)) if is_smooth else (height, width)
    return Image.fromarray(random.integers(0, 256, (*small, 3), dtype=np.uint8)).resize((width, height))


def files_of(width: int, height: int) -> Iterator[bytes]:
    """Every kind of file that the extension takes and Pillow writes."""
    for is_smooth in (True, False):
        image = picture(width, height, is_smooth=is_smooth)
        for quality in (1, 50, 75, 95, 100):
            for subsampling in (0, 1, 2):
                yield encoded(image, quality=quality, subsampling=subsampling)
            yield encoded(image.convert("L"), quality=quality)
        yield encoded(image, quality=90, subsampling=0, keep_rgb=True)
        yield encoded(image, quality=90, restart_marker_blocks=3)
        yield encoded(image, quality=90, optimize=True)
        yield encoded(image, quality=90, exif=b"Exif\0\0" + bytes(5000), icc_profile=bytes(70_000), comment=b"x")
        for mode in ("RGB", "L"):
            yield encoded(image.convert(mode), quality=85, progressive=True)
            yield encoded(image.convert(mode), quality=40, progressive=True)
