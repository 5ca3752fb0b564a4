"""Replaying a view: from the integers to the uint8 pixels a model sees, the same for teacher and student."""

import hashlib
from collections.abc import Sequence

import numpy as np
from PIL import Image

from kdcache.views.params import ViewParams
from kdcache.views.resample import cut_views

PIXEL_HASH_BYTES = 16


def replay_view(image: np.ndarray | Image.Image, view: ViewParams, *, size: int, interpolation: str) -> np.ndarray:
    """Pixels of a view.

    Args:
        image: The decoded source, (H, W, 3) uint8 or a Pillow image of mode RGB.
        view: What to cut.
        size: S.
        interpolation: A name of INTERPOLATIONS.

    Returns: (S, S, 3) uint8.
    Raises: ValueError if the view does not fit this image.
    """
    return replay_views([np.asarray(image)], [view], size=size, interpolation=interpolation)[0]


def replay_views(
    images: Sequence[np.ndarray],
    views: np.ndarray | Sequence[ViewParams],
    *,
    size: int,
    interpolation: str,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Pixels of one view of each image, in one call without the interpreter lock where the extension is built.

    Args:
        images: The decoded sources, (H, W, 3) uint8 each; one may stand for several views.
        views: What to cut, as integers (n, 9) int32 or as ViewParams.
        size: S.
        interpolation: A name of INTERPOLATIONS.
        out: (n, S, S, 3) uint8, C-contiguous, to be filled; None for new memory.

    Returns: (n, S, S, 3) uint8, `out` if it was given.
    Raises: ValueError if a view does not fit its image.
    """
    if not isinstance(views, np.ndarray):
        views = np.array([view.as_integers() for view in views], np.int32).reshape(-1, 9)
    if len(images) != len(views):
        raise ValueError(f"one image a view is needed, got {len(images)} images and {len(views)} views")
    if out is None:
        out = np.empty((len(views), size, size, 3), np.uint8)
    cut_views(images, views, interpolation, out)
    return out


def pixel_hash(pixels: np.ndarray) -> str:
    """The first 32 hex digits of the sha256 over the pixels in row order."""
    return hashlib.sha256(np.ascontiguousarray(pixels).data).hexdigest()[: 2 * PIXEL_HASH_BYTES]
