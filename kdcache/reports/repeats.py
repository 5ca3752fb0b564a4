"""What runs repeated with other seeds say about differences between their settings."""

import math
from collections.abc import Sequence

import numpy as np
from scipy.stats import studentized_range


def mean_and_sd(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation; the latter is None for a single value."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None


def least_difference(groups: Sequence[Sequence[float]], *, confidence: float = 0.95) -> float | None:
    """How far apart two groups' means must be to differ, all pairs of groups taken together.

    Tukey's honestly significant difference: the groups share one variance, estimated from all of them, and with
    probability `confidence` no pair of groups with equal expectation exceeds the difference.

    Args:
        groups: At least two groups of repeats, all of the same size.
        confidence: Between 0 and 1.

    Returns: the difference, in the values' unit; None where a group has a single value, which shows no spread.
    Raises: ValueError for fewer than two groups, or groups of different sizes.
    Source: Tukey, "Comparing individual means in the analysis of variance", Biometrics 5 (1949).
    """
    sizes = {len(group) for group in groups}
    if len(groups) < 2 or len(sizes) != 1 or 0 in sizes:
        raise ValueError(f"two or more groups of one size are needed, got sizes {[len(group) for group in groups]}")
    size = sizes.pop()
    if size == 1:
        return None
    variance = float(np.mean([np.var(group, ddof=1) for group in groups]))
    quantile = studentized_range.ppf(confidence, len(groups), len(groups) * (size - 1))
    return float(quantile) * math.sqrt(variance / size)
