"""The recipe deit draws what timm's own training transform draws; planted differences show that this would be seen."""

import math
import random as python_random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import timm.data.random_erasing
import torch
from PIL import Image
from scipy import stats
from timm.data import create_transform

from kdcache.views import ViewRecipe, draw_view
from kdcache.views.randaugment import MAGNITUDE_ONE, SIGNED, WITHOUT_MAGNITUDE

NUM, SIZE, WIDTH, HEIGHT = 8000, 40, 70, 52
# Fixed seeds: the smallest of 13 p-values lies below this once in 77 choices of them. Faults are below the second.
SAME, DIFFERENT = 1e-3, 1e-6
_ERASED = 1e6


@dataclass(frozen=True)
class Draws:
    """What a transform drew of NUM views.

    Args:
        operations: (NUM, 2) int, 0 for none.
        magnitudes: Of the operations that have one, 0 to 10.
        signs: (n, 2) int, operations that have a sign, and 1 where it is negative.
        boxes: (NUM, 4) int, erased left, top, width and height; zeros for none.
        crops: (NUM, 4) int, left, top, width and height in the source.
        flips: Views that are mirrored.
    """

    operations: np.ndarray
    magnitudes: np.ndarray
    signs: np.ndarray
    boxes: np.ndarray
    crops: np.ndarray
    flips: int


@lru_cache
def ours(**changes: Any) -> Draws:
    recipe = ViewRecipe(name="deit", size=SIZE, **changes)
    views = np.array(
        [draw_view(recipe, seed=5, key="k", view=n, width=WIDTH, height=HEIGHT).as_integers() for n in range(NUM)]
    )
    operations, magnitudes = views[:, [9, 11]], views[:, [10, 12]]
    signed = np.isin(operations, [*SIGNED])
    return Draws(
        operations=operations,
        magnitudes=np.abs(magnitudes[~np.isin(operations, [0, *WITHOUT_MAGNITUDE])]) / MAGNITUDE_ONE,
        signs=np.stack([operations[signed], magnitudes[signed] < 0], axis=1),
        boxes=views[:, 13:17],
        crops=views[:, :4],
        flips=int(views[:, 8].sum()),
    )


class Recorder:
    """Watches timm's transform: its operations note what they would do, its erasing leaves a mark."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.transform = create_transform(
            SIZE, is_training=True, interpolation="bicubic", auto_augment="rand-m9-mstd0.5-inc1", re_prob=0.25,
            re_mode="pixel", re_count=1,
        )  # fmt: skip
        self.magnitudes: list[float] = []
        self.applied: list[tuple[int, float]] = []
        self.signs: list[tuple[int, bool]] = []
        crop, flip, augment = self.transform.transforms[:3]
        for number, operation in enumerate(augment.ops, 1):
            monkeypatch.setattr(operation, "level_fn", self._level(operation.level_fn))
            monkeypatch.setattr(operation, "aug_fn", self._operation(number))
        monkeypatch.setattr(
            timm.data.random_erasing,
            "_get_pixels",
            lambda per_pixel, rand_color, patch_size, **_: torch.full(patch_size, _ERASED),
        )
        self.crop, self.flip = crop, flip

    def _level(self, level_fn: Any) -> Any:
        def level(magnitude: float, hparams: Any) -> tuple[float, ...]:
            self.magnitudes.append(magnitude)
            arguments: tuple[float, ...] = level_fn(magnitude, hparams)
            return arguments

        return None if level_fn is None else level

    def _operation(self, number: int) -> Any:
        def apply(image: Image.Image, argument: float = 0.0, **_: Any) -> Image.Image:
            self.applied.append((number, argument))
            return image

        return apply

    def draws(self) -> Draws:
        image = Image.new("RGB", (WIDTH, HEIGHT))
        # One half differs, so that a mirrored view shows; it is drawn apart, since crops may leave a half out.
        halves = Image.fromarray(np.repeat(np.arange(2, dtype=np.uint8)[None, :, None] * 200, 3, axis=2))
        operations, boxes, crops, flips = [], [], [], 0
        for _ in range(NUM):
            self.applied.clear()
            erased = self.transform(image)[0] == _ERASED
            operations.append(
                sorted((number for number, _ in self.applied), reverse=True) + [0] * (2 - len(self.applied))
            )
            boxes.append(_box(erased))
            self.signs.extend((number, _is_negative(number, argument)) for number, argument in self.applied)
            top, left, height, width = self.crop.get_params(image, self.crop.scale, self.crop.ratio)
            crops.append((left, top, width, height))
            flips += np.asarray(self.flip(halves))[0, 0, 0] > 0
        signs = np.array([pair for pair in self.signs if pair[0] in SIGNED])
        return Draws(np.array(operations), np.array(self.magnitudes), signs, np.array(boxes), np.array(crops), flips)


def _is_negative(number: int, argument: float) -> bool:
    """Factors of 8 to 11 (colour, contrast, brightness, sharpness) are 1 plus the signed amount."""
    return argument < (1 if 8 <= number <= 11 else 0)


def _box(erased: torch.Tensor) -> tuple[int, int, int, int]:
    if not erased.any():
        return (0, 0, 0, 0)
    rows, columns = erased.any(dim=1).nonzero()[:, 0], erased.any(dim=0).nonzero()[:, 0]
    left, top = int(columns[0]), int(rows[0])
    return left, top, int(columns[-1]) - left + 1, int(rows[-1]) - top + 1


@pytest.fixture(scope="module")
def theirs() -> Iterator[Draws]:
    """What timm draws, from generators that are put back afterwards."""
    states = python_random.getstate(), np.random.get_state(), torch.get_rng_state()
    python_random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield Recorder(monkeypatch).draws()
    python_random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])


def p_values(first: Draws, second: Draws) -> dict[str, float]:
    """Two-sample tests: chi-square of counts, Kolmogorov and Smirnov's of values."""

    def counts(one: np.ndarray, other: np.ndarray) -> float:
        kinds = np.unique(np.concatenate([one, other]))
        table = [[int((each == kind).sum()) for kind in kinds] for each in (one, other)]
        return float(stats.chi2_contingency(table).pvalue)

    def values(one: np.ndarray, other: np.ndarray) -> float:
        return float(stats.ks_2samp(one, other).pvalue)

    pair = first, second
    boxes = [each.boxes[each.boxes[:, 2] > 0] for each in pair]
    return {
        "operations": counts(*(each.operations.ravel() for each in pair)),
        "operations in a view": counts(*((each.operations > 0).sum(axis=1) for each in pair)),
        "magnitudes": values(*(each.magnitudes for each in pair)),
        "signs": counts(*(each.signs @ [2, 1] for each in pair)),
        "erased": counts(*(each.boxes[:, 2] > 0 for each in pair)),
        "erased areas": values(*(box[:, 2] * box[:, 3] for box in boxes)),
        "erased ratios": values(*(np.log(box[:, 3] / box[:, 2]) for box in boxes)),
        "erased left": values(*(box[:, 0] / (SIZE - box[:, 2]) for box in boxes)),
        "erased top": values(*(box[:, 1] / (SIZE - box[:, 3]) for box in boxes)),
        "crop areas": values(*(each.crops[:, 2] * each.crops[:, 3] for each in pair)),
        "crop ratios": values(*(np.log(each.crops[:, 2] / each.crops[:, 3]) for each in pair)),
        "crop corners": values(*(each.crops[:, 0] + WIDTH * each.crops[:, 1] for each in pair)),
        "flips": counts(*(np.arange(NUM) < each.flips for each in pair)),
    }


def test_deit_is_timms_own_transform(theirs: Draws) -> None:
    found = p_values(ours(), theirs)
    assert len(theirs.magnitudes) > 0.35 * NUM
    assert min(found.values()) > SAME, found


PLANTED: dict[str, dict[str, Any]] = {
    "erased": {"erase": 0.2},
    "erased areas": {"erase_area": (0.02, 0.4)},
    "erased ratios": {"erase_ratio": (0.4, 2.5)},
    "magnitudes": {"magnitude_std": 0.0},
    "operations in a view": {"operation": 0.45},
    "crop areas": {"scale": (0.15, 1.0)},
    "crop ratios": {"ratio": (0.8, 1.25)},
    "flips": {"flip": 0.45},
}


@pytest.fixture(scope="module")
def faulty() -> Draws:
    """All faults at once: no measure sees another's."""
    return ours(**{name: value for fault in PLANTED.values() for name, value in fault.items()})


@pytest.mark.parametrize("measure", PLANTED)
def test_a_planted_fault_is_caught(theirs: Draws, faulty: Draws, measure: str) -> None:
    assert p_values(faulty, theirs)[measure] < DIFFERENT


def test_a_magnitude_of_8_9_is_caught(theirs: Draws) -> None:
    assert p_values(ours(magnitude=8.9), theirs)["magnitudes"] < DIFFERENT


def test_an_operation_that_is_never_drawn_is_caught(theirs: Draws) -> None:
    found = ours()
    missing = np.where(found.operations == 15, 14, found.operations)
    assert p_values(replace(found, operations=missing), theirs)["operations"] < DIFFERENT


def test_one_sign_only_is_caught(theirs: Draws) -> None:
    found = ours()
    assert p_values(replace(found, signs=found.signs * [1, 0]), theirs)["signs"] < DIFFERENT


def test_the_two_slots_are_independent() -> None:
    """Neither slot says anything of the other: 16 x 16 counts against the product of their frequencies."""
    operations = ours().operations
    assert math.isclose(float((operations > 0).mean()), 0.5, abs_tol=0.02)
    table = np.zeros((16, 16), int)
    np.add.at(table, (operations[:, 0], operations[:, 1]), 1)
    assert stats.chi2_contingency(table).pvalue > SAME
