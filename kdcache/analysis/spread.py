"""How whole numbers are distributed, without keeping them: counts of each value give every percentile exactly."""

import numpy as np
import torch
from torch import Tensor

from kdcache.analysis.result import Spread

_PERCENTILES = (25, 50, 75, 99)


class Counts:
    """How often each value from 0 to `largest` occurred.

    Args:
        largest: The largest value possible.
    """

    def __init__(self, largest: int) -> None:
        self._counts = np.zeros(largest + 1, np.int64)

    def update(self, values: Tensor) -> None:
        """Add whole numbers of any shape; negative ones (what is not defined) are left out."""
        flat = values.reshape(-1)
        self._counts += torch.bincount(flat[flat >= 0], minlength=len(self._counts)).cpu().numpy()

    @property
    def total(self) -> int:
        """How many values there were."""
        return int(self._counts.sum())

    def spread(self) -> Spread | None:
        """Mean, deviation (of the population) and percentiles; None without values."""
        total = self.total
        if total == 0:
            return None
        values = np.arange(len(self._counts))
        mean = float(self._counts @ values) / total
        std = float(np.sqrt(max(0.0, float(self._counts @ np.square(values - mean)) / total)))
        p25, median, p75, p99 = (self._percentile(each) for each in _PERCENTILES)
        return Spread(mean=mean, std=std, p25=p25, median=median, p75=p75, p99=p99)

    def _percentile(self, percent: float) -> float:
        # numpy's linear interpolation between the two nearest of the sorted values.
        position = (self.total - 1) * percent / 100
        below, part = int(position), position - int(position)
        ends = np.cumsum(self._counts)
        low, high = np.searchsorted(ends, [below, min(below + 1, self.total - 1)], side="right")
        return float(low + part * (high - low))
