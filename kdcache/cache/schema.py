"""What arrays must look like before anything indexes with them: types, shapes that agree, ranges."""

from collections.abc import Mapping

import numpy as np

from kdcache.cache.record import Array

# A dataset's type (``S`` for bytes of any length), and its sides: numbers, or letters that mean the same everywhere.
ArraySpec = tuple[str, tuple[int | str, ...]]


def check_arrays(arrays: Mapping[str, Array], specs: Mapping[str, ArraySpec]) -> dict[str, int]:
    """Compare arrays with what they must be.

    Args:
        arrays: By name.
        specs: What each must be.

    Returns: the number that each letter stands for.
    Raises: ValueError naming the array, what was found and what was wanted; KeyError for one that is missing.
    """
    sides: dict[str, int] = {}
    for name, (dtype, shape) in specs.items():
        found = arrays[name]
        if len(found.shape) == len(shape):
            for letter, side in zip(shape, found.shape, strict=True):
                if isinstance(letter, str):
                    sides.setdefault(letter, side)
        wanted = tuple(sides.get(side, -1) if isinstance(side, str) else side for side in shape)
        is_typed = found.dtype.kind == "S" if dtype == "S" else found.dtype == np.dtype(dtype)
        if not is_typed or found.shape != wanted:
            raise ValueError(f"{name} is {found.dtype.str} of shape {found.shape}, wanted {dtype} of shape {wanted}")
    return sides


def check_range(name: str, values: Array, least: float, most: float | None = None) -> None:
    """Refuse values outside of a range; NaN is outside of any. Raises: ValueError."""
    inside = values >= least if most is None else (values >= least) & (values <= most)
    if not inside.all():
        wrong = values[~inside].flat[0]
        upper = "" if most is None else f" to {most}"
        raise ValueError(f"{name} holds {wrong}, wanted {least}{upper or ' or more'}")


def check_finite(name: str, values: Array) -> None:
    """Refuse NaN and infinity. Raises: ValueError."""
    if not np.isfinite(values).all():
        raise ValueError(f"{name} holds values that are not finite")
