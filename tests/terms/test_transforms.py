"""Transforms of targets: what they make of means, variances and distances."""

from typing import Any

import numpy as np
import pytest
import torch

from kdcache.cache.statistics import TokenStatistics, merged
from kdcache.terms.transforms import Transform, equalizing_rotation, make_transform
from tests.terms.support import statistics_of

# Powers of two, which take a Hadamard matrix, and others.
WIDTHS = [1, 2, 3, 7, 8, 12, 24, 64]


def correlated(channels: int, *, rank: int | None = None, mean: float = 3.0, seed: int = 0) -> torch.Tensor:
    """(8, 64, C) tokens of correlated channels of very different variances, around different means."""
    random = np.random.default_rng(seed)
    rank = channels if rank is None else rank
    values = random.standard_normal((8, 64, rank)) * np.geomspace(1, 20, rank)
    mixed = values @ random.standard_normal((rank, channels)) + mean * random.standard_normal(channels)
    return torch.from_numpy(mixed.astype(np.float32))


def applied(name: Any, values: torch.Tensor) -> np.ndarray:
    """All tokens (T, C) after a transform by their own statistics, float64."""
    transform = make_transform(name, "a/b", statistics_of(values))
    return transform(values).flatten(0, 1).double().numpy()


@pytest.mark.parametrize("channels", WIDTHS)
def test_mean_is_subtracted(channels: int) -> None:
    values = correlated(channels)
    expected = values.double() - values.double().mean((0, 1))
    np.testing.assert_allclose(applied("mean", values), expected.flatten(0, 1), atol=1e-4)


@pytest.mark.parametrize("channels", WIDTHS)
def test_standardized_channels_have_mean_0_and_variance_1(channels: int) -> None:
    values = correlated(channels)
    found = applied("standardize", values)
    np.testing.assert_allclose(found.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(found.var(0), 1, rtol=1e-4)
    rows = values.flatten(0, 1).double().numpy()
    np.testing.assert_allclose(found, (rows - rows.mean(0)) / rows.std(0), atol=1e-4)


@pytest.mark.parametrize("channels", WIDTHS[2:])
def test_layer_norm_gives_every_token_mean_0_and_variance_1(channels: int) -> None:
    values = correlated(channels)
    rows = values.flatten(0, 1).double().numpy()
    centred = rows - rows.mean(1, keepdims=True)
    expected = centred / np.sqrt(np.square(centred).mean(1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(applied("layer-norm", values), expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("rank", [None, 2], ids=["full", "deficient"])
@pytest.mark.parametrize("channels", WIDTHS)
def test_phi_s_gives_every_channel_variance_1(channels: int, rank: int | None) -> None:
    found = applied("phi-s", correlated(channels, rank=rank))
    np.testing.assert_allclose(found.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(found.var(0), 1, rtol=1e-3)


@pytest.mark.parametrize("channels", WIDTHS)
def test_phi_s_keeps_distances_up_to_one_factor(channels: int) -> None:
    values = correlated(channels)
    before, after = values.flatten(0, 1).double().numpy(), applied("phi-s", values)
    ratios = [np.linalg.norm(after[i] - after[i + 1]) / np.linalg.norm(before[i] - before[i + 1]) for i in range(100)]
    np.testing.assert_allclose(ratios, 1 / np.sqrt(before.var(0).mean()), rtol=1e-3)


@pytest.mark.parametrize("channels", WIDTHS)
@pytest.mark.parametrize("kind", ["spread", "equal", "one", "zero"])
def test_the_rotation_is_orthogonal_and_evens_variances_out(channels: int, kind: str) -> None:
    variances = {
        "spread": np.geomspace(1e-6, 1e3, channels),
        "equal": np.full(channels, 2.0),
        "one": np.eye(channels)[-1],
        "zero": np.zeros(channels),
    }[kind]
    rotation = equalizing_rotation(variances)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(channels), atol=1e-12)
    found = np.diag(rotation @ np.diag(variances) @ rotation.T)
    np.testing.assert_allclose(found, variances.mean(), rtol=1e-9, atol=1e-15)


def test_a_channel_far_from_zero_does_not_spoil_phi_s() -> None:
    """The second moments in the cache are uncentred: what is subtracted is 10,000 times what is left."""
    values = correlated(12, mean=0.0)
    values[..., 3] += 100 * values[..., 3].std()
    found = applied("phi-s", values)
    np.testing.assert_allclose(found.var(0), 1, rtol=1e-2)


def test_a_channel_that_hardly_varies_is_not_blown_up() -> None:
    values = correlated(8, mean=0.0)
    values[..., 5] = 2.0
    values[0, 0, 5] += 1e-3
    found = applied("standardize", values)
    others = np.delete(found.var(0), 5)
    np.testing.assert_allclose(others, 1, rtol=1e-4)
    assert found.var(0)[5] < 0.01


@pytest.mark.parametrize("name", ["standardize", "phi-s"])
def test_a_constant_column_is_refused(name: Any) -> None:
    with pytest.raises(ValueError, match=f"transform={name} divides by what the tokens of column a/b vary"):
        make_transform(name, "a/b", statistics_of(torch.full((2, 4, 8), 3.0)))


def test_second_moments_are_needed_for_phi_s_only() -> None:
    light = statistics_of(correlated(8), with_moments=False)
    make_transform("mean", "a/b", light)
    make_transform("standardize", "a/b", light)
    with pytest.raises(
        ValueError, match="transform=phi-s needs second moments, which the cache does not hold of column a/b"
    ):
        make_transform("phi-s", "a/b", light)


def test_statistics_of_shards_give_the_same_transform() -> None:
    values = correlated(12)
    parts: list[TokenStatistics] = [statistics_of(part) for part in values.split(3)]
    names: list[Any] = ["standardize", "phi-s"]
    for name in names:
        one, other = (make_transform(name, "a/b", each) for each in (merged(parts), statistics_of(values)))
        torch.testing.assert_close(one(values).var((0, 1)), other(values).var((0, 1)), rtol=1e-3, atol=0)


@pytest.mark.parametrize("name", ["mean", "standardize", "phi-s"])
def test_nothing_is_trained_and_autocast_rounds_nothing(name: Any) -> None:
    values = correlated(12)
    transform = make_transform(name, "a/b", statistics_of(values))
    assert isinstance(transform, Transform) and list(transform.parameters()) == []
    assert set(transform.state_dict()) == {"mean", "factor"}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = transform(values)
    assert torch.equal(found, transform(values)) and found.dtype == torch.float32
