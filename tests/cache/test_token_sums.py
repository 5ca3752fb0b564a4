import numpy as np
import pytest

from kdcache.cache.token_sums import Moments, moments_of, sum_tokens


@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_sums_equal_float64(random: np.random.Generator, offset: float) -> None:
    values = (random.standard_normal((6, 5, 4)) * [1, 2, 3, 4] + offset).astype(np.float32)
    values[0, 0] = 0
    sums, exact = sum_tokens(values, with_moments=True), values.reshape(-1, 4).astype(np.float64)
    assert (sums.moments.count, sums.num_zero_tokens) == (30, 1)
    np.testing.assert_allclose(sums.column_sums, values.astype(np.float64).sum(1), rtol=1e-12)
    np.testing.assert_allclose(sums.squares, np.square(values.astype(np.float64)).sum((1, 2)), rtol=1e-12)
    np.testing.assert_allclose(sums.moments.m2, np.square(exact - exact.mean(0)).sum(0), rtol=1e-5)
    unit = exact[1:] / np.linalg.norm(exact[1:], axis=1, keepdims=True)
    np.testing.assert_allclose(sums.unit_moment, unit.T @ unit, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(sums.raw_moment, exact.T @ exact, rtol=1e-5, atol=1e-4)


def test_without_moments_there_are_none(random: np.random.Generator) -> None:
    sums = sum_tokens(random.standard_normal((2, 3, 4)).astype(np.float32), with_moments=False)
    assert sums.raw_moment.shape == sums.unit_moment.shape == (0, 0)


def test_moments_merge_to_those_of_all(random: np.random.Generator) -> None:
    tokens = (random.standard_normal((40, 3)) * [1, 2, 3] + [0, 10, 1000]).astype(np.float32)
    total = Moments()
    for part in (tokens[:0], tokens[:7], tokens[7:8], tokens[8:]):
        total.merge(moments_of(part))
    assert total.count == 40
    np.testing.assert_allclose(total.mean, tokens.astype(np.float64).mean(0), rtol=1e-12)
    np.testing.assert_allclose(total.m2, tokens.astype(np.float64).var(0) * 40, rtol=1e-5)
