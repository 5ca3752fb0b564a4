import numpy as np
import pytest

from kdcache.cache.statistics import (
    NUM_SPECTRA_PER_SHARD,
    Fidelity,
    TokenStatistics,
    merged,
    singular_energies,
    spectrum_step,
)


def features(random: np.random.Generator, count: int, offset: float = 0.0) -> np.ndarray:
    values = random.standard_normal((count, 5, 4)) * [1, 2, 3, 4] + offset
    values[0, 0] = 0
    return values.astype(np.float32)


@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_moments_equal_float64(random: np.random.Generator, offset: float) -> None:
    values = features(random, 30, offset)
    statistics = TokenStatistics(4, with_moments=True)
    sums, squares = zip(*(statistics.update(part) for part in np.array_split(values, 7)), strict=True)
    tokens = values.reshape(-1, 4).astype(np.float64)
    np.testing.assert_allclose(statistics.mean, tokens.mean(axis=0), rtol=1e-9)
    np.testing.assert_allclose(statistics.m2, ((tokens - tokens.mean(axis=0)) ** 2).sum(axis=0), rtol=1e-5)
    np.testing.assert_array_equal(statistics.minimum, tokens.min(axis=0))
    np.testing.assert_array_equal(statistics.maximum, tokens.max(axis=0))
    np.testing.assert_allclose(statistics.raw_moment, tokens.T @ tokens, rtol=1e-5)
    np.testing.assert_allclose(np.concatenate(sums), values.astype(np.float64).sum(axis=1), rtol=1e-12)
    np.testing.assert_allclose(np.concatenate(squares), (values.astype(np.float64) ** 2).sum(axis=(1, 2)), rtol=1e-12)
    lengths = np.linalg.norm(tokens, axis=1, keepdims=True)
    unit = tokens[lengths[:, 0] > 0] / lengths[lengths[:, 0] > 0]
    np.testing.assert_allclose(statistics.unit_moment, unit.T @ unit, rtol=1e-4, atol=1e-4)
    assert statistics.num_zero_tokens == 1
    assert statistics.count == 150


def test_merging_shards_equals_one_pass(random: np.random.Generator) -> None:
    values = features(random, 24)
    whole = TokenStatistics(4, with_moments=True)
    whole.update(values)
    parts = [TokenStatistics(4, with_moments=True) for _ in range(4)]
    for part, piece in zip(parts[:3], np.array_split(values, 3), strict=True):
        part.update(piece)
    total = merged(parts)
    for name in ("mean", "m2", "minimum", "maximum", "raw_moment", "unit_moment"):
        np.testing.assert_allclose(getattr(total, name), getattr(whole, name), rtol=1e-5, atol=1e-5)
    assert (total.count, total.num_zero_tokens) == (whole.count, whole.num_zero_tokens)


def test_columns_of_other_kinds_do_not_merge() -> None:
    with pytest.raises(ValueError, match="cannot merge"):
        TokenStatistics(4, with_moments=True).merge(TokenStatistics(4, with_moments=False))
    with pytest.raises(ValueError, match="no statistics"):
        merged([])


@pytest.mark.parametrize("shape", [(2, 6, 4), (2, 4, 6), (1, 5, 5)], ids=str)
def test_singular_energies_equal_the_svd(random: np.random.Generator, shape: tuple[int, ...]) -> None:
    values = random.standard_normal(shape).astype(np.float32)
    exact = np.linalg.svd(values.astype(np.float64), compute_uv=False) ** 2
    np.testing.assert_allclose(singular_energies(values), exact, rtol=1e-5)


def test_a_low_rank_image_has_few_energies(random: np.random.Generator) -> None:
    values = (random.standard_normal((1, 8, 2)) @ random.standard_normal((2, 6))).astype(np.float32)
    energies = singular_energies(values)[0]
    assert (energies[2:] < 1e-6 * energies[0]).all()
    assert (energies >= 0).all()


def test_how_many_spectra_a_shard_keeps() -> None:
    for planned in (1, 31, 32, 33, 512, 1000):
        kept = len(range(0, planned, spectrum_step(planned)))
        assert min(planned, NUM_SPECTRA_PER_SHARD) <= kept < 2 * NUM_SPECTRA_PER_SHARD


def test_fidelity_by_hand() -> None:
    fidelity = Fidelity()
    fidelity.update(np.array([[3.0, 4.0], [0.0, 0.0]], np.float32), np.array([[3.0, 0.0], [0.0, 0.0]], np.float32))
    assert fidelity.summary() == pytest.approx({"relative_error": 0.8, "cosine": 0.6, "energy_kept": 9 / 25})
    other = Fidelity()
    other.update(np.array([[1.0, 0.0]], np.float32), np.array([[1.0, 0.0]], np.float32))
    fidelity.merge(other)
    assert fidelity.summary()["cosine"] == pytest.approx(0.8)


def test_fidelity_of_nothing_is_perfect() -> None:
    assert Fidelity().summary() == {"relative_error": 0.0, "cosine": 1.0, "energy_kept": 1.0}


@pytest.mark.parametrize("shape", [(0, 6, 4), (0, 4, 6), (2, 0, 4)], ids=str)
def test_no_images_and_no_tokens(random: np.random.Generator, shape: tuple[int, int, int]) -> None:
    empty = np.zeros(shape, np.float32)
    energies = singular_energies(empty)
    assert energies.shape == (shape[0], min(shape[1:]))
    assert energies.dtype == np.float32
    statistics = TokenStatistics(shape[-1], with_moments=True)
    sums, squares = statistics.update(empty)
    assert sums.shape == (shape[0], shape[-1])
    assert squares.shape == shape[:1]
    assert (statistics.count, statistics.num_zero_tokens) == (0, 0)
    values = random.standard_normal((3, 5, shape[-1])).astype(np.float32)
    statistics.update(values)
    alone = TokenStatistics(shape[-1], with_moments=True)
    alone.update(values)
    np.testing.assert_array_equal(statistics.mean, alone.mean)
    np.testing.assert_array_equal(statistics.unit_moment, alone.unit_moment)
    fidelity = Fidelity()
    fidelity.update(empty, empty)
    assert fidelity == Fidelity()
