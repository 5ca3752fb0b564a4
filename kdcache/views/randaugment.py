"""RandAugment as DeiT uses it: operations drawn as integers and applied by Pillow, those of timm's increasing set.

Source: arXiv:1909.13719; ranges, fill colour and resampling are those of timm's ``rand-m9-mstd0.5-inc1``.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from statistics import NormalDist
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from kdcache.seeds import derived_bits

NUM_SLOTS = 2
# Filters that Pillow turns and shears with.
AUGMENT_INTERPOLATIONS = ("bicubic", "bilinear", "nearest")
# Magnitudes are stored in units of 1 / MAGNITUDE_ONE.
MAGNITUDE_ONE = 1 << 16
MAX_MAGNITUDE = 10
_SOLARIZE_ADD_BELOW = 128


class Operation(IntEnum):
    """What an augmentation does to an image; the numbers are part of the format. 0 is no operation."""

    AUTO_CONTRAST = 1
    EQUALIZE = 2
    INVERT = 3
    ROTATE = 4
    POSTERIZE = 5
    SOLARIZE = 6
    SOLARIZE_ADD = 7
    COLOR = 8
    CONTRAST = 9
    BRIGHTNESS = 10
    SHARPNESS = 11
    SHEAR_X = 12
    SHEAR_Y = 13
    TRANSLATE_X = 14
    TRANSLATE_Y = 15


@dataclass(frozen=True)
class Surroundings:
    """What an operation takes from the cache and not from the view.

    Args:
        fill: RGB of what comes in from outside the image, 0 to 255.
        resample: Pillow's filter for operations that move pixels.
    """

    fill: tuple[int, ...]
    resample: Image.Resampling


_Apply = Callable[[Image.Image, float, Surroundings], Image.Image]


def _moved(matrix: Callable[[float, Image.Image], tuple[float, ...]]) -> _Apply:
    def apply(image: Image.Image, amount: float, around: Surroundings) -> Image.Image:
        return image.transform(
            image.size,
            Image.Transform.AFFINE,
            matrix(amount, image),
            resample=around.resample,
            fillcolor=around.fill,
        )

    return apply


def _enhanced(kind: Callable[[Image.Image], Any]) -> _Apply:
    return lambda image, amount, _: kind(image).enhance(max(0.1, 1.0 + amount * 0.9))


def _rotated(image: Image.Image, amount: float, around: Surroundings) -> Image.Image:
    return image.rotate(amount * 30.0, resample=around.resample, fillcolor=around.fill)


def _posterized(image: Image.Image, amount: float, _: Surroundings) -> Image.Image:
    # By a table: at magnitude 10 no bit is left and the image is black, which Pillow 13's own posterize refuses.
    kept = 0xFF00 >> (4 - int(amount * 4)) & 0xFF
    return image.point([value & kept for value in range(256)] * 3)


def _solarized(image: Image.Image, amount: float, _: Surroundings) -> Image.Image:
    return ImageOps.solarize(image, 256 - int(amount * 256))


def _solar_added(image: Image.Image, amount: float, _: Surroundings) -> Image.Image:
    added = int(amount * 110)
    table = [min(255, value + added) if value < _SOLARIZE_ADD_BELOW else value for value in range(256)]
    return image.point(table * 3)


# `amount` is magnitude / 10, -1 to 1.
_APPLY: dict[Operation, _Apply] = {
    Operation.AUTO_CONTRAST: lambda image, *_: ImageOps.autocontrast(image),
    Operation.EQUALIZE: lambda image, *_: ImageOps.equalize(image),
    Operation.INVERT: lambda image, *_: ImageOps.invert(image),
    Operation.ROTATE: _rotated,
    Operation.POSTERIZE: _posterized,
    Operation.SOLARIZE: _solarized,
    Operation.SOLARIZE_ADD: _solar_added,
    Operation.COLOR: _enhanced(ImageEnhance.Color),
    Operation.CONTRAST: _enhanced(ImageEnhance.Contrast),
    Operation.BRIGHTNESS: _enhanced(ImageEnhance.Brightness),
    Operation.SHARPNESS: _enhanced(ImageEnhance.Sharpness),
    Operation.SHEAR_X: _moved(lambda amount, _: (1, amount * 0.3, 0, 0, 1, 0)),
    Operation.SHEAR_Y: _moved(lambda amount, _: (1, 0, 0, amount * 0.3, 1, 0)),
    Operation.TRANSLATE_X: _moved(lambda amount, image: (1, 0, amount * 0.45 * image.width, 0, 1, 0)),
    Operation.TRANSLATE_Y: _moved(lambda amount, image: (1, 0, 0, 0, 1, amount * 0.45 * image.height)),
}
WITHOUT_MAGNITUDE = frozenset({Operation.AUTO_CONTRAST, Operation.EQUALIZE, Operation.INVERT})
# Half of the time these go the other way: to the left, darker, and so on.
SIGNED = frozenset(
    {
        Operation.ROTATE,
        Operation.COLOR,
        Operation.CONTRAST,
        Operation.BRIGHTNESS,
        Operation.SHARPNESS,
        Operation.SHEAR_X,
        Operation.SHEAR_Y,
        Operation.TRANSLATE_X,
        Operation.TRANSLATE_Y,
    }
)


def draw_operations(
    *, seed: int, key: str, view: int, magnitude: float, magnitude_std: float, probability: float
) -> tuple[int, ...]:
    """Draw the operations of a view: a pure function of its arguments.

    Args:
        seed, key, view: As for draw_view.
        magnitude, magnitude_std: Mean and standard deviation of the magnitude, which is clipped to 0 to 10.
        probability: That a slot has an operation at all; which one is uniform, with replacement.

    Returns: operation and magnitude of each slot, as in ViewParams.
    """
    bits = derived_bits(4 * NUM_SLOTS, "augment", seed, view, key) >> np.uint64(11)
    drawn: list[int] = []
    for slot in range(NUM_SLOTS):
        # In the middle of 2**-53, so that neither 0 nor 1 occurs, which no quantile has.
        applied_at, operation_at, magnitude_at, sign_at = ((bits[4 * slot : 4 * slot + 4] + 0.5) * 2.0**-53).tolist()
        if applied_at >= probability:
            drawn += (0, 0)
            continue
        operation = Operation(1 + int(operation_at * len(Operation)))
        level = magnitude + magnitude_std * NormalDist().inv_cdf(magnitude_at)
        units = round(min(max(level, 0.0), MAX_MAGNITUDE) * MAGNITUDE_ONE)
        if operation in WITHOUT_MAGNITUDE:
            units = 0
        elif operation in SIGNED and sign_at < 0.5:
            units = -units
        drawn += (int(operation), units)
    return tuple(drawn)


def apply_operations(pixels: np.ndarray, operations: Sequence[int], around: Surroundings) -> np.ndarray:
    """Apply the operations of a view, one after the other.

    Args:
        pixels: (S, S, 3) uint8.
        operations: What `draw_operations` gave.
        around: Fill colour and filter.

    Returns: (S, S, 3) uint8.
    Raises: ValueError for a number that is no operation, or a magnitude that the operation does not have.
    """
    image = Image.fromarray(pixels)
    for operation, magnitude in zip(operations[::2], operations[1::2], strict=True):
        if not fits_operation(operation, magnitude):
            raise ValueError(f"operation {operation} with magnitude {magnitude} does not exist")
        if operation:
            image = _APPLY[Operation(operation)](image, magnitude / MAGNITUDE_ONE / MAX_MAGNITUDE, around)
    return np.asarray(image)


def fits_operation(operation: int, magnitude: int) -> bool:
    """Whether these two integers are an operation and a magnitude that it can have."""
    if operation == 0 or operation in WITHOUT_MAGNITUDE:
        return magnitude == 0
    lowest = -MAX_MAGNITUDE * MAGNITUDE_ONE if operation in SIGNED else 0
    return 0 < operation <= len(Operation) and lowest <= magnitude <= MAX_MAGNITUDE * MAGNITUDE_ONE
