"""Boxes cut from images and resized, with Pillow's pixels: by the C extension many at a time, else through Pillow."""

from collections.abc import Sequence
from enum import Enum
from functools import cache

import numpy as np
from PIL import Image

try:
    from kdcache.views import _resample
except ImportError:  # not built: there was no compiler
    _resample = None

INTERPOLATIONS = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "nearest": Image.Resampling.NEAREST,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
}


class PassOrder(Enum):
    """Which of the two passes of a resize comes first."""

    HORIZONTAL_FIRST = "until Pillow 12"
    BY_SHAPE = "since Pillow 13"


# Places in the extension's table of filters; the other filters are rare and take Pillow.
_FILTERS = {"bilinear": 0, "bicubic": 1}


def cut_views(images: Sequence[np.ndarray], views: np.ndarray, interpolation: str, out: np.ndarray) -> None:
    """Fill `out` with one view of each image.

    With the extension all views are cut in one call that releases the interpreter lock.

    Args:
        images: (H, W, 3) uint8 each; one image may stand for several views.
        views: (n, 9) int32, the first integers of VIEW_FIELDS, up to `flip`.
        interpolation: A name of INTERPOLATIONS.
        out: (n, S, S, 3) uint8, C-contiguous.

    Raises: ValueError if a view does not fit its image, or its window the resized box.
    """
    order = pass_order(interpolation)
    if order is not None:
        wrong = _cut(images, views, interpolation, order, out)
    else:
        wrong = next((n for n, image in enumerate(images) if not _fits(image, views[n], out.shape[1])), -1)
        for image, view, pixels in zip(images, views, out, strict=True) if wrong < 0 else ():
            _cut_by_pillow(image, view, interpolation, pixels)
    if wrong >= 0:
        height, width = images[wrong].shape[:2]
        raise ValueError(
            f"view {views[wrong].tolist()} with a window of {out.shape[1]} pixels does not fit an image of {width} x "
            f"{height} pixels"
        )


@cache
def pass_order(interpolation: str) -> PassOrder | None:
    """The order of the two passes with which the extension gives the pixels of the Pillow that is installed.

    None where it never does, or is not there: then views take Pillow. Pillow 13 changed the order for some shapes, and
    builds with other arithmetic exist (pillow-simd); a cache holds hashes of the pixels of the one it was made with.
    """
    if _resample is None or interpolation not in _FILTERS:
        return None
    image = np.random.default_rng(0).integers(0, 256, (41, 37, 3), dtype=np.uint8)
    # Fewer pixels both ways, then many fewer rows: the second is where the orders differ.
    views = np.array([[1, 2, 30, 31, 24, 24, 3, 2, 1], [4, 0, 9, 41, 24, 22, 0, 1, 0]], np.int32)
    ours, pillows = np.empty((2, 2, 21, 21, 3), np.uint8)
    for view, pixels in zip(views, pillows, strict=True):
        _cut_by_pillow(image, view, interpolation, pixels)
    for order in PassOrder:
        _cut([image, image], views, interpolation, order, ours)
        if np.array_equal(ours, pillows):
            return order
    return None


def _cut(images: Sequence[np.ndarray], views: np.ndarray, interpolation: str, order: PassOrder, out: np.ndarray) -> int:
    assert _resample is not None
    contiguous = [np.ascontiguousarray(image) for image in images]
    integers = np.ascontiguousarray(views, np.int32)
    is_new_order = order is PassOrder.BY_SHAPE
    return _resample.cut(contiguous, integers, _FILTERS[interpolation], is_new_order, out.shape[1], out)


def _fits(image: np.ndarray, view: np.ndarray, size: int) -> bool:
    left, top, width, height, resized_width, resized_height, window_left, window_top = view[:8].tolist()
    return (
        min(left, top, window_left, window_top) >= 0
        and min(width, height) > 0
        and top + height <= image.shape[0]
        and left + width <= image.shape[1]
        and window_left + size <= resized_width
        and window_top + size <= resized_height
    )


def _cut_by_pillow(source: np.ndarray, view: np.ndarray, interpolation: str, out: np.ndarray) -> None:
    left, top, width, height, resized_width, resized_height, window_left, window_top, flip = view.tolist()
    box = source[top : top + height, left : left + width]
    if (width, height) != (resized_width, resized_height):
        image = Image.fromarray(np.ascontiguousarray(box))
        box = np.asarray(image.resize((resized_width, resized_height), INTERPOLATIONS[interpolation]))
    size = len(out)
    window = box[window_top : window_top + size, window_left : window_left + size]
    out[:] = window[:, ::-1] if flip else window
