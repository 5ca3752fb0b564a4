"""Random erasing: a box of the view replaced by noise, both of them integers.

The noise is normal, one number a pixel and channel, with mean 0 and standard deviation 1 once the view is
normalised, as timm's mode ``pixel`` gives it. Views are uint8, so it is rounded to the nearest of the 256 values and
clipped to them: with ImageNet's normalisation 3 to 4 % of the numbers lie outside, and the standard deviation falls to
0.97. It comes from 16 random bits through a table of integers, so that no platform's logarithm decides a pixel.

Source: arXiv:1708.04896; box and noise as in timm's RandomErasing.
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from kdcache.seeds import derived_bits, uniforms

_ATTEMPTS = 10
_SEEDS = 1 << 31
_UNIFORMS = 1 << 16


def draw_box(
    *,
    seed: int,
    key: str,
    view: int,
    size: int,
    probability: float,
    area: tuple[float, float],
    ratio: tuple[float, float],
) -> tuple[int, ...]:
    """Draw the box that is erased: a pure function of its arguments.

    Args:
        seed, key, view: As for draw_view.
        size: S, side of the view in pixels.
        probability: That there is a box.
        area: Range of its fraction of the view's area, uniform.
        ratio: Range of its height divided by its width, uniform in the logarithm.

    Returns: left, top, width, height, and the seed of the noise, as in ViewParams; zeros for no box, which after ten
        boxes that do not fit is the case too.
    """
    bits = derived_bits(4 * _ATTEMPTS + 2, "erase", seed, view, key)
    drawn = uniforms(bits)
    low, high = math.log(ratio[0]), math.log(ratio[1])
    for attempt in range(_ATTEMPTS if drawn[-1] < probability else 0):
        area_at, ratio_at, top_at, left_at = drawn[4 * attempt : 4 * attempt + 4]
        erased = size * size * (area[0] + (area[1] - area[0]) * area_at)
        quotient = math.exp(low + (high - low) * ratio_at)
        height, width = round(math.sqrt(erased * quotient)), round(math.sqrt(erased / quotient))
        if 0 < width < size and 0 < height < size:
            left, top = int(left_at * (size - width + 1)), int(top_at * (size - height + 1))
            return left, top, width, height, int(bits[-2]) % _SEEDS
    return 0, 0, 0, 0, 0


def erase(pixels: np.ndarray, box: Sequence[int], *, mean: Sequence[float], std: Sequence[float]) -> None:
    """Replace a box by noise, in place.

    Args:
        pixels: (S, S, 3) uint8.
        box: What `draw_box` gave.
        mean, std: Of the normalisation, for each channel.

    Raises: ValueError for a box that is not inside the view.
    """
    left, top, width, height, seed = box
    if not fits_box(box, len(pixels)):
        raise ValueError(f"the erased box {list(box)} is not inside a view of {len(pixels)} pixels")
    if not width:
        return
    count = width * height * 3
    drawn = derived_bits(-(-count // 4), "noise", seed).astype("<u8").view("<u2")[:count].reshape(height, width, 3)
    for channel, table in enumerate(noise_tables(tuple(mean), tuple(std))):
        pixels[top : top + height, left : left + width, channel] = table[drawn[..., channel]]


def fits_box(box: Sequence[int], size: int) -> bool:
    """Whether these five integers are a box inside a view, or none."""
    left, top, width, height, seed = box
    if not width and not height:
        return not any(box)
    is_inside = min(left, top) >= 0 and left + width <= size and top + height <= size
    return is_inside and min(width, height) > 0 and seed >= 0


@lru_cache
def noise_tables(mean: tuple[float, ...], std: tuple[float, ...]) -> np.ndarray:
    """Normal noise as pixels: (channels, 65536) uint8, by 16 random bits.

    Value v stands for the numbers that round to it, so it takes as many of the 65,536 places as the normal distribution
    gives to (v - 0.5, v + 0.5) / 255; the two ends take what lies beyond them.
    """
    tables = np.empty((len(mean), _UNIFORMS), np.uint8)
    for table, center, scale in zip(tables, mean, std, strict=True):
        bounds = [((value + 0.5) / 255 - center) / scale for value in range(255)]
        below = [round(_UNIFORMS * 0.5 * math.erfc(-bound / math.sqrt(2))) for bound in bounds]
        table[:] = np.searchsorted(below, np.arange(_UNIFORMS), side="right")
    tables.flags.writeable = False
    return tables
