"""Effective rank of a family of compressed models, from their accuracies.

Source: METHODS 5.2 (arXiv 2512.00792): a monotone interpolant (PCHIP) of accuracy over rank; the region between 85 and
95 % of the teacher's accuracy; the knee farthest from the chord. The paper does not say whether axes are scaled before
that distance is taken, and it moves the knee: both are given.
"""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.interpolate import PchipInterpolator  # pyright: ignore[reportMissingTypeStubs]
from scipy.optimize import brentq  # pyright: ignore[reportMissingTypeStubs, reportUnknownVariableType]

from kdcache.analysis.result import EffectiveRank
from kdcache.cache.record import Array
from kdcache.errors import UsageError

REGION = (0.85, 0.95)
_GRID = 20_001


def effective_rank(ranks: Sequence[float], accuracies: Sequence[float], teacher_accuracy: float) -> EffectiveRank:
    """Region and knee.

    Args:
        ranks: At least three different ones.
        accuracies: One a rank, in the unit of the teacher's.
        teacher_accuracy: Of the full-rank teacher.

    Raises: ValueError for too few or repeated ranks, lengths that differ, or a teacher without accuracy.
    """
    if len(ranks) != len(accuracies) or len(set(ranks)) != len(ranks) or len(ranks) < 3:
        raise ValueError(f"three or more different ranks and an accuracy for each are needed, got {list(ranks)}")
    if not teacher_accuracy > 0:
        raise ValueError(f"the teacher's accuracy must be positive, got {teacher_accuracy}")
    order = np.argsort(ranks)
    x, y = np.asarray(ranks, float)[order], np.asarray(accuracies, float)[order]
    curve = PchipInterpolator(x, y)
    return EffectiveRank(
        ranks=x.tolist(),
        accuracies=y.tolist(),
        teacher_accuracy=teacher_accuracy,
        region=[_crossing(curve, x, y, share * teacher_accuracy) for share in REGION],
        knee=_knee(curve, x, scaled=True),
        knee_unscaled=_knee(curve, x, scaled=False),
    )


def read_rank_table(path: Path) -> tuple[list[float], list[float]]:
    """Ranks and accuracies from a CSV file with the columns ``rank`` and ``accuracy``.

    Raises: UsageError.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        return [float(row["rank"]) for row in rows], [float(row["accuracy"]) for row in rows]
    except (OSError, UnicodeDecodeError, KeyError, TypeError, ValueError) as error:
        raise UsageError(
            f"{path}: not a table of ranks ({type(error).__name__}: {error}); wanted a CSV file whose first line is "
            "rank,accuracy"
        ) from None


def _crossing(curve: PchipInterpolator, x: Array, y: Array, wanted: float) -> float | None:
    """The smallest rank at which the curve reaches an accuracy; None if it does not, or begins above it."""
    above = np.flatnonzero(y >= wanted)
    if not len(above) or above[0] == 0:
        return float(x[0]) if len(above) and y[0] == wanted else None
    first = int(above[0])
    return float(brentq(lambda rank: float(curve(rank)) - wanted, x[first - 1], x[first]))  # pyright: ignore


def _knee(curve: PchipInterpolator, x: Array, *, scaled: bool) -> float:
    at = np.linspace(x[0], x[-1], _GRID)
    height = np.asarray(curve(at))
    across, up = at - at[0], height - height[0]
    if scaled:
        across, up = across / (across[-1] or 1), up / (up[-1] or 1)
    distance = np.abs(across * up[-1] - up * across[-1])
    return float(at[int(distance.argmax())])
