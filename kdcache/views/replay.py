"""Replaying a view: from the integers to the uint8 pixels a model sees, the same for teacher and student."""

import hashlib
from collections.abc import Sequence

import numpy as np
from PIL import Image

from kdcache.views.erasing import erase
from kdcache.views.params import NUM_CUT_FIELDS, VIEW_FIELDS, ViewParams
from kdcache.views.randaugment import NUM_SLOTS, Surroundings, apply_operations
from kdcache.views.resample import INTERPOLATIONS, cut_views

PIXEL_HASH_BYTES = 16


def replay_view(
    image: np.ndarray | Image.Image,
    view: ViewParams,
    *,
    size: int,
    interpolation: str,
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
) -> np.ndarray:
    """Pixels of a view.

    Args:
        image: The decoded source, (H, W, 3) uint8 or a Pillow image of mode RGB.
        view: What to cut.
        size, interpolation, mean, std: As for replay_views.

    Returns: (S, S, 3) uint8.
    Raises: ValueError if the view does not fit this image.
    """
    images = [np.asarray(image)]
    return replay_views(images, [view], size=size, interpolation=interpolation, mean=mean, std=std)[0]


def replay_views(
    images: Sequence[np.ndarray],
    views: np.ndarray | Sequence[ViewParams],
    *,
    size: int,
    interpolation: str,
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Pixels of one view of each image, cut in one call without the interpreter lock where the extension is built.

    What is done to a view after it is cut (operations, erasing) is done one view after the other.

    Args:
        images: The decoded sources, (H, W, 3) uint8 each; one may stand for several views.
        views: What to cut, as integers (n, F) int32 in the order of VIEW_FIELDS, or as ViewParams.
        size: S.
        interpolation: A name of INTERPOLATIONS.
        mean, std: Of the normalisation of the cache's views: operations fill with the mean, and erasing is by noise of
            that scale. Views without either do not need them.
        out: (n, S, S, 3) uint8, C-contiguous, to be filled; None for new memory.

    Returns: (n, S, S, 3) uint8, `out` if it was given.
    Raises: ValueError if a view does not fit its image, or has operations or a box that do not exist.
    """
    if not isinstance(views, np.ndarray):
        views = np.array([view.as_integers() for view in views], np.int32).reshape(-1, len(VIEW_FIELDS))
    if len(images) != len(views):
        raise ValueError(f"one image a view is needed, got {len(images)} images and {len(views)} views")
    if out is None:
        out = np.empty((len(views), size, size, 3), np.uint8)
    cut_views(images, views[:, :NUM_CUT_FIELDS], interpolation, out)
    for row in np.flatnonzero(views[:, NUM_CUT_FIELDS:].any(axis=1)).tolist():
        _augment(out[row], views[row].tolist()[NUM_CUT_FIELDS:], interpolation, mean, std)
    return out


def _augment(
    pixels: np.ndarray, integers: list[int], interpolation: str, mean: Sequence[float], std: Sequence[float]
) -> None:
    """Operations, then erasing, in place."""
    if not len(mean) == len(std) == pixels.shape[-1]:
        raise ValueError(f"mean and std of {pixels.shape[-1]} channels are needed to augment a view, got {mean}, {std}")
    operations, box = integers[: 2 * NUM_SLOTS], integers[2 * NUM_SLOTS :]
    if any(operations):
        fill = tuple(min(255, round(255 * value)) for value in mean)
        pixels[:] = apply_operations(pixels, operations, Surroundings(fill, INTERPOLATIONS[interpolation]))
    erase(pixels, box, mean=mean, std=std)


def pixel_hash(pixels: np.ndarray) -> str:
    """The first 32 hex digits of the sha256 over the pixels in row order."""
    return hashlib.sha256(np.ascontiguousarray(pixels).data).hexdigest()[: 2 * PIXEL_HASH_BYTES]
