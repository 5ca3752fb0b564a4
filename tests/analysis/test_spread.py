import numpy as np
import pytest
import torch

from kdcache.analysis.spread import Counts


@pytest.mark.parametrize("count", [1, 2, 7, 1000])
def test_percentiles_are_numpys(random: np.random.Generator, count: int) -> None:
    values = random.integers(0, 30, count)
    counts = Counts(30)
    for part in np.array_split(values, 3):
        counts.update(torch.from_numpy(part))
    counts.update(torch.tensor([-1, -1]))
    spread = counts.spread()
    assert spread is not None
    assert counts.total == count
    found = [spread.mean, spread.std, spread.p25, spread.median, spread.p75, spread.p99]
    np.testing.assert_allclose(
        found, [values.mean(), values.std(), *np.percentile(values, [25, 50, 75, 99])], atol=1e-9
    )


def test_nothing_has_no_spread() -> None:
    assert Counts(3).spread() is None


def test_no_values_change_nothing() -> None:
    counts = Counts(3)
    counts.update(torch.zeros(0, dtype=torch.int64))
    assert counts.spread() is None
    counts.update(torch.tensor([2]))
    counts.update(torch.zeros(4, 0, dtype=torch.int64))
    assert counts.total == 1
