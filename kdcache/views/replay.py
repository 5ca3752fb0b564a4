"""Replaying a view: from the integers to the uint8 pixels a model sees, the same for teacher and student."""

import hashlib

import numpy as np
from PIL import Image

from kdcache.views.params import ViewParams

INTERPOLATIONS = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "nearest": Image.Resampling.NEAREST,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
}
PIXEL_HASH_BYTES = 16


def replay_view(image: Image.Image, view: ViewParams, *, size: int, interpolation: str) -> np.ndarray:
    """Pixels of a view.

    Args:
        image: The decoded source, mode RGB.
        view: What to cut.
        size: S.
        interpolation: A name of INTERPOLATIONS.

    Returns: (S, S, 3) uint8.
    Raises: ValueError if the view does not fit this image.
    """
    right, bottom = view.left + view.width, view.top + view.height
    if not (0 <= view.left < right <= image.width and 0 <= view.top < bottom <= image.height):
        raise ValueError(f"{view} does not fit an image of {image.width} x {image.height} pixels")
    if (view.left, view.top, right, bottom) != (0, 0, image.width, image.height):
        image = image.crop((view.left, view.top, right, bottom))
    if image.size != (view.resized_width, view.resized_height):
        image = image.resize((view.resized_width, view.resized_height), INTERPOLATIONS[interpolation])
    window = (view.window_left, view.window_top, view.window_left + size, view.window_top + size)
    if window != (0, 0, *image.size):
        image = image.crop(window)
    pixels = np.asarray(image)
    return np.ascontiguousarray(pixels[:, ::-1]) if view.flip else pixels


def pixel_hash(pixels: np.ndarray) -> str:
    """The first 32 hex digits of the sha256 over the pixels in row order."""
    return hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()[: 2 * PIXEL_HASH_BYTES]
