import numpy as np
import pytest
import torch

from kdcache.analysis.svd_rank import (
    RANK_LEVELS,
    cumulative_share,
    dims_at,
    image_energies,
    numerical_rank,
    per_image_dims,
)

SHAPES = [(4, 16, 24), (3, 49, 20), (2, 7, 7), (1, 1, 5)]


def by_svd(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """arXiv:2511.15572 to the letter in float64: squared singular values and required dimensions of each image."""
    values = np.linalg.svd(features.astype(np.float64), compute_uv=False) ** 2
    shares = values.cumsum(axis=1) / values.sum(axis=1, keepdims=True)
    dims = [[int(np.argmax(share >= level / 100)) + 1 for level in RANK_LEVELS] for share in shares]
    return values, np.array(dims)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("centred", [False, True])
def test_against_a_float64_svd(random: np.random.Generator, shape: tuple[int, ...], centred: bool) -> None:
    features = (random.standard_normal(shape) * np.geomspace(1, 0.01, shape[-1]) + 0.3).astype(np.float32)
    wanted = features.astype(np.float64)
    if centred:
        wanted = wanted - wanted.mean(axis=1, keepdims=True)
    if shape[1] == 1 and centred:
        assert (per_image_dims(torch.from_numpy(features), centred=True) == -1).all()
        return
    values, dims = by_svd(wanted)
    tokens = torch.from_numpy(features)
    np.testing.assert_allclose(image_energies(tokens, centred=centred), values, rtol=1e-9, atol=1e-12 * values.max())
    np.testing.assert_array_equal(per_image_dims(tokens, centred=centred), dims)


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_a_matrix_of_rank_r_needs_at_most_r_dimensions(random: np.random.Generator, rank: int) -> None:
    features = random.standard_normal((5, 30, rank)) @ random.standard_normal((5, rank, 40))
    tokens = torch.from_numpy(features.astype(np.float32))
    assert (per_image_dims(tokens, [99])[:, 0] <= rank).all()
    assert (numerical_rank(image_energies(tokens), 30, 40) == rank).all()


def test_a_mean_token_hides_the_rest_until_it_is_taken_away(random: np.random.Generator) -> None:
    tokens = torch.from_numpy((random.standard_normal((2, 50, 20)) + 30).astype(np.float32))
    assert (per_image_dims(tokens, [99]) == 1).all()
    assert (per_image_dims(tokens, [99], centred=True) > 15).all()


def test_levels_that_are_met_exactly() -> None:
    """Five equal directions hold 80 % in four, whatever the rounding of the sum."""
    assert dims_at(torch.full((5,), 0.1), [20, 40, 60, 80, 100]).tolist() == [1, 2, 3, 4, 5]


def test_images_of_zeros_have_no_dimensions() -> None:
    zeros = torch.zeros(2, 4, 6)
    assert (per_image_dims(zeros) == -1).all()
    assert numerical_rank(image_energies(zeros), 4, 6).tolist() == [0, 0]
    assert (cumulative_share(image_energies(zeros)) == 0).all()


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("shape", [(0, 4, 6), (0, 6, 4), (3, 0, 6)], ids=str)
def test_no_images_and_no_tokens(shape: tuple[int, int, int], centred: bool) -> None:
    features = torch.zeros(shape)
    energies = image_energies(features, centred=centred)
    assert energies.shape == (shape[0], min(shape[1:]))
    assert energies.dtype == torch.float64
    dims = per_image_dims(features, centred=centred)
    assert dims.shape == (shape[0], len(RANK_LEVELS))
    assert dims.dtype == torch.int64
    assert (dims == -1).all()
    assert numerical_rank(energies, *shape[1:]).tolist() == [0] * shape[0]
    assert cumulative_share(energies).shape == energies.shape
