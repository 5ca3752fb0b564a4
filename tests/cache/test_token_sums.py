import numpy as np
import pytest

from kdcache.cache.token_sums import sum_tokens


@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_sums_equal_float64(random: np.random.Generator, offset: float) -> None:
    values = (random.standard_normal((6, 5, 4)) * [1, 2, 3, 4] + offset).astype(np.float32)
    values[0, 0] = 0
    sums, exact = sum_tokens(values, with_moments=True), values.reshape(-1, 4).astype(np.float64)
    assert (sums.num_tokens, sums.num_zero_tokens) == (30, 1)
    np.testing.assert_allclose(sums.column_sums, values.astype(np.float64).sum(1), rtol=1e-12)
    np.testing.assert_allclose(sums.squares, np.square(values.astype(np.float64)).sum((1, 2)), rtol=1e-12)
    np.testing.assert_allclose(sums.m2, np.square(exact - exact.mean(0)).sum(0), rtol=1e-5)
    unit = exact[1:] / np.linalg.norm(exact[1:], axis=1, keepdims=True)
    np.testing.assert_allclose(sums.unit_moment, unit.T @ unit, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(sums.raw_moment, exact.T @ exact, rtol=1e-5, atol=1e-4)


def test_without_moments_there_are_none(random: np.random.Generator) -> None:
    sums = sum_tokens(random.standard_normal((2, 3, 4)).astype(np.float32), with_moments=False)
    assert sums.raw_moment.shape == sums.unit_moment.shape == (0, 0)
