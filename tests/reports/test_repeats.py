import numpy as np
import pytest
from scipy.stats import tukey_hsd

from kdcache.reports.repeats import least_difference, mean_and_sd


def test_mean_and_standard_deviation() -> None:
    assert mean_and_sd([90.0, 92.0, 94.0]) == (92.0, 2.0)
    assert mean_and_sd([90.0]) == (90.0, None)


def test_the_least_difference_is_tukeys() -> None:
    groups = np.random.default_rng(0).normal(90, 2, (5, 3))
    interval = tukey_hsd(*groups).confidence_interval(0.95)
    half_widths = (interval.high - interval.low) / 2
    assert least_difference(groups.tolist()) == pytest.approx(half_widths[0, 1])


def test_one_repeat_shows_no_spread() -> None:
    assert least_difference([[90.0], [95.0]]) is None


@pytest.mark.parametrize("groups", [[[1.0, 2.0]], [[1.0, 2.0], [1.0]], [[], []]], ids=str)
def test_groups_that_cannot_be_compared_are_refused(groups: list[list[float]]) -> None:
    with pytest.raises(ValueError, match="two or more groups of one size"):
        least_difference(groups)
