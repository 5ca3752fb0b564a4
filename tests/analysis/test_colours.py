import numpy as np
import pytest

from kdcache.analysis.colours import principal_colours


def test_colours_follow_the_strongest_directions(random: np.random.Generator) -> None:
    features = random.standard_normal((4, 4, 8)) * 0.01
    features[:2] += 5  # two halves that differ in one direction
    colours = principal_colours(features)
    assert colours.shape == (4, 4, 3)
    assert colours.min() >= 0
    assert colours.max() <= 1
    assert abs(colours[:2, :, 0].mean() - colours[2:, :, 0].mean()) > 0.9


def test_the_same_record_always_looks_the_same(random: np.random.Generator) -> None:
    features = random.standard_normal((3, 3, 5)).astype(np.float32)
    np.testing.assert_array_equal(principal_colours(features), principal_colours(features.copy()))


def test_constant_and_thin_records(random: np.random.Generator) -> None:
    assert np.isfinite(principal_colours(np.ones((2, 2, 4)))).all()
    assert np.isfinite(principal_colours(random.standard_normal((2, 2, 1)))).all()


@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 0, 4)], ids=str)
def test_no_tokens_have_no_colours(shape: tuple[int, int, int]) -> None:
    assert principal_colours(np.zeros(shape)).shape == (*shape[:2], 3)
