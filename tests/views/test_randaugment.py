from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import timm.data.auto_augment as theirs
from PIL import Image

from kdcache.views.randaugment import (
    AUGMENT_INTERPOLATIONS,
    MAGNITUDE_ONE,
    MAX_MAGNITUDE,
    SIGNED,
    WITHOUT_MAGNITUDE,
    Operation,
    Surroundings,
    apply_operations,
    draw_operations,
    fits_operation,
)
from kdcache.views.resample import INTERPOLATIONS

FILL = (124, 116, 104)
AROUND = Surroundings(FILL, Image.Resampling.BICUBIC)
DRAW: dict[str, Any] = {"seed": 0, "key": "k", "magnitude": 9.0, "magnitude_std": 0.5, "probability": 0.5}
# timm's names in timm's order: the numbers of operations are places in this list, from 1.
NAMES = theirs._RAND_INCREASING_TRANSFORMS


def photo(size: int = 48) -> np.ndarray:
    """Smooth in places and rough in others, so that no operation leaves it as it is."""
    random = np.random.default_rng(7)
    y, x = np.mgrid[:size, :size] / size
    smooth = np.stack([40 + 150 * x, 200 - 160 * y, 90 + 60 * np.sin(9 * x * y)], axis=-1)
    return (smooth + random.integers(-20, 21, (size, size, 3))).clip(3, 250).astype(np.uint8)


def by_timm(name: str, units: int, monkeypatch: pytest.MonkeyPatch, resample: Image.Resampling) -> np.ndarray:
    """timm's operation at a given level, its coin made to fall on the side of the sign."""
    monkeypatch.setattr(theirs.random, "random", lambda: 0.9 if units < 0 else 0.1)
    to_argument: Callable[..., tuple[Any, ...]] | None = theirs.LEVEL_TO_ARG[name]
    arguments = () if to_argument is None else to_argument(abs(units) / MAGNITUDE_ONE, {"translate_const": 100})
    image = theirs.NAME_TO_OP[name](Image.fromarray(photo()), *arguments, fillcolor=FILL, resample=resample)
    return np.asarray(image)


def test_the_operations_are_timms() -> None:
    names = [
        name.removesuffix("Increasing").removesuffix("Rel").replace("X", "_X").replace("Y", "_Y") for name in NAMES
    ]
    snake = [
        "".join(f"_{c}" if c.isupper() and n and name[n - 1] != "_" else c for n, c in enumerate(name))
        for name in names
    ]
    assert [name.upper() for name in snake] == [each.name for each in Operation]
    assert [each.value for each in Operation] == list(range(1, 16))
    assert {NAMES[each - 1] for each in WITHOUT_MAGNITUDE} == {n for n in NAMES if theirs.LEVEL_TO_ARG[n] is None}


@pytest.mark.parametrize("operation", list(Operation))
@pytest.mark.parametrize("interpolation", AUGMENT_INTERPOLATIONS)
def test_pixels_are_timms_bit_for_bit(
    operation: Operation, interpolation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    resample = INTERPOLATIONS[interpolation]
    levels = [
        0,
        1,
        1234,
        *(int(level * MAGNITUDE_ONE) for level in (2.5, 5.0, 7.49, 8.3, 9.0, 9.77)),
        10 * MAGNITUDE_ONE,
    ]
    signed = [-units for units in levels if units] if operation in SIGNED else []
    for units in [0] if operation in WITHOUT_MAGNITUDE else [*levels, *signed]:
        ours = apply_operations(photo(), [operation, units], Surroundings(FILL, resample))
        if operation is Operation.POSTERIZE and units == 10 * MAGNITUDE_ONE:
            # No bit is left. Until Pillow 12 timm gave a black image; Pillow 13 refuses, and timm fails.
            assert not ours.any()
            continue
        expected = by_timm(NAMES[operation - 1], units, monkeypatch, resample)
        np.testing.assert_array_equal(ours, expected, err_msg=f"{operation.name} at {units}")
        assert ours.dtype == np.uint8


@pytest.mark.parametrize("operation", list(Operation))
def test_every_operation_changes_a_photo_and_signs_differ(operation: Operation) -> None:
    units = 0 if operation in WITHOUT_MAGNITUDE else 9 * MAGNITUDE_ONE
    changed = apply_operations(photo(), [operation, units], AROUND)
    assert not np.array_equal(changed, photo())
    if operation in SIGNED:
        assert not np.array_equal(changed, apply_operations(photo(), [operation, -units], AROUND))


def test_two_operations_are_applied_in_order() -> None:
    slots = [Operation.SOLARIZE, 9 * MAGNITUDE_ONE, Operation.COLOR, 8 * MAGNITUDE_ONE]
    one = apply_operations(photo(), slots[:2], AROUND)
    np.testing.assert_array_equal(apply_operations(photo(), slots, AROUND), apply_operations(one, slots[2:], AROUND))
    turned = apply_operations(photo(), [*slots[2:], *slots[:2]], AROUND)
    assert not np.array_equal(turned, apply_operations(photo(), slots, AROUND))
    np.testing.assert_array_equal(apply_operations(photo(), [0, 0, 0, 0], AROUND), photo())


def test_draws_are_what_can_be_applied() -> None:
    for view in range(300):
        drawn = draw_operations(**{**DRAW, "magnitude_std": 6.0, "probability": 1.0}, view=view)
        assert all(fits_operation(*drawn[slot : slot + 2]) for slot in (0, 2))
        assert drawn == draw_operations(**{**DRAW, "magnitude_std": 6.0, "probability": 1.0}, view=view)


def test_without_deviation_every_magnitude_is_the_mean() -> None:
    drawn = np.array([draw_operations(**{**DRAW, "magnitude_std": 0.0}, view=view) for view in range(200)])
    used = np.abs(drawn[:, 1::2][~np.isin(drawn[:, ::2], [0, *WITHOUT_MAGNITUDE])])
    assert set(used.tolist()) == {9 * MAGNITUDE_ONE}


def test_probability_0_and_1() -> None:
    assert not any(any(draw_operations(**{**DRAW, "probability": 0.0}, view=view)) for view in range(50))
    assert all(all(draw_operations(**{**DRAW, "probability": 1.0}, view=view)[::2]) for view in range(50))


@pytest.mark.parametrize(
    "slot",
    [
        (16, 0),
        (-1, 0),
        (0, 5),
        (Operation.INVERT, 1),
        (Operation.SOLARIZE, -1),
        (Operation.ROTATE, 10 * MAGNITUDE_ONE + 1),
    ],
    ids=str,
)
def test_what_does_not_exist_is_refused(slot: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=f"operation {slot[0]:d} with magnitude {slot[1]} does not exist"):
        apply_operations(photo(), slot, AROUND)


def test_the_scale_is_part_of_the_format() -> None:
    assert (MAGNITUDE_ONE, MAX_MAGNITUDE) == (65536, 10)
