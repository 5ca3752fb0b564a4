import numpy as np
import pytest

from kdcache.cache.statistics import (
    MAX_SPECTRA_PER_SHARD,
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
    parts = [statistics.update(part) for part in np.array_split(values, 7)]
    sums, squares = [part.column_sums for part in parts], [part.squares for part in parts]
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


@pytest.mark.parametrize("num_samples", [1, 31, 512, 5_000, 50_000, 1_281_167])
@pytest.mark.parametrize("shard_samples", [1, 33, 512, 1000])
def test_how_many_spectra_a_cache_keeps(num_samples: int, shard_samples: int) -> None:
    """About a thousand where there are as many images, however many shards; few of them in one shard."""
    step = spectrum_step(num_samples, shard_samples)
    sizes = [min(shard_samples, num_samples - first) for first in range(0, num_samples, shard_samples)]
    kept = [len(range(0, size, step)) for size in sizes]
    assert max(kept) < 2 * MAX_SPECTRA_PER_SHARD
    most = MAX_SPECTRA_PER_SHARD * len(sizes)
    assert sum(kept) >= min(num_samples, 1000, most) * (sizes[-1] / shard_samples if len(sizes) == 1 else 0.9)
    assert sum(kept) <= max(4 * 1024, len(sizes))


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
    added = statistics.update(empty)
    assert added.column_sums.shape == (shape[0], shape[-1])
    assert added.squares.shape == shape[:1]
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
