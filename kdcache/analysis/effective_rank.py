"""Effective rank of a family of compressed models, from their accuracies.

Source: arXiv 2512.00792: a monotone interpolant (PCHIP) of accuracy over rank; the region between 85 and
95 % of the teacher's accuracy; the knee farthest from the chord. Stretching an axis scales all those distances alike
and moves no knee; a logarithmic axis of ranks does, and the paper does not say which it took: both knees are given.
"""

import csv
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from scipy.interpolate import PchipInterpolator
from scipy.optimize import brentq

from kdcache.analysis.result import EffectiveRank
from kdcache.cache.record import Array
from kdcache.errors import UsageError

REGION = (0.85, 0.95)
_STEPS = 20_001


def effective_rank(ranks: Sequence[float], accuracies: Sequence[float], teacher_accuracy: float) -> EffectiveRank:
    """Region and knee.

    Args:
        ranks: At least three different ones.
        accuracies: One a rank, in the unit of the teacher's.
        teacher_accuracy: Of the full-rank teacher.

    Raises: ValueError for too few, repeated or not positive ranks, lengths that differ, or a teacher without accuracy.
    """
    if len(ranks) != len(accuracies) or len(set(ranks)) != len(ranks) or len(ranks) < 3:
        raise ValueError(f"three or more different ranks and an accuracy for each are needed, got {list(ranks)}")
    if not teacher_accuracy > 0:
        raise ValueError(f"the teacher's accuracy must be positive, got {teacher_accuracy}")
    if not min(ranks) > 0:
        raise ValueError(f"ranks must be positive, got {min(ranks)}")
    order = np.argsort(ranks)
    x, y = np.asarray(ranks, float)[order], np.asarray(accuracies, float)[order]
    curve = PchipInterpolator(x, y)
    crossings = [_crossing(curve, x, y, share * teacher_accuracy) for share in REGION]
    return EffectiveRank(
        ranks=x.tolist(),
        accuracies=y.tolist(),
        teacher_accuracy=teacher_accuracy,
        region=[rank for rank, _ in crossings],
        knee=_knee(curve, np.linspace(x[0], x[-1], _STEPS), lambda rank: rank),
        knee_log=_knee(curve, np.geomspace(x[0], x[-1], _STEPS), np.log),
        notes=[
            *(f"{share:.0%} of the teacher: {why}" for share, (_, why) in zip(REGION, crossings, strict=True) if why),
            *_doubts(y, teacher_accuracy),
        ],
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


def _crossing(curve: PchipInterpolator, x: Array, y: Array, wanted: float) -> tuple[float | None, str]:
    """The smallest rank at which the curve reaches an accuracy; None and why where it does not cross it."""
    above = np.flatnonzero(y >= wanted)
    if not len(above):
        return None, f"not reached, the best of the table is {y.max():g}"
    if above[0] == 0:
        return None, f"reached by the smallest rank of the table, {x[0]:g}, already"
    first = int(above[0])
    return float(brentq(lambda rank: float(curve(rank)) - wanted, x[first - 1], x[first])), ""  # pyright: ignore


def _doubts(accuracies: Array, teacher_accuracy: float) -> list[str]:
    doubts: list[str] = []
    if (np.diff(accuracies) < 0).any():
        doubts.append("accuracy falls with rank somewhere in the table: the curve is not monotone there")
    if not 0.05 < accuracies.max() / teacher_accuracy < 1.05:
        doubts.append(
            f"the best accuracy is {accuracies.max():g} and the teacher's {teacher_accuracy:g}: are they in one unit?"
        )
    return doubts


def _knee(curve: PchipInterpolator, at: Array, axis: Callable[[Array], Array]) -> float | None:
    """The rank farthest from the chord; None for a level curve. Only ratios count, so no axis needs scaling."""
    height = np.asarray(curve(at))
    across, up = axis(at) - axis(at[0]), height - height[0]
    distance = np.abs(across * up[-1] - up * across[-1])
    return float(at[int(distance.argmax())]) if distance.max() > 0 else None
