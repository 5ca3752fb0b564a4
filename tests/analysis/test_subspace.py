import numpy as np
import pytest
import torch

from kdcache.analysis.subspace import SharedBasis, captured_dims, standardized_energies
from kdcache.analysis.svd_rank import dims_at
from tests.analysis.synthetic import GLOBAL_RANK, OWN_RANK, known_rank_image

CPU = torch.device("cpu")


@pytest.mark.parametrize("centred", [False, True])
def test_energy_along_the_eigenvectors_of_all_tokens(random: np.random.Generator, centred: bool) -> None:
    """The published script in float64: eigenvectors of C, energies of X V, their cumulative share."""
    features = random.standard_normal((6, 10, 8)) @ random.standard_normal((8, 8)) + 0.5
    tokens = features.reshape(-1, 8)
    mean = tokens.mean(axis=0)
    moment = tokens.T @ tokens / len(tokens)
    values, vectors = np.linalg.eigh(moment - np.outer(mean, mean) if centred else moment)
    basis = SharedBasis(moment, mean if centred else None, CPU)
    np.testing.assert_allclose(basis.energies, values[::-1], rtol=1e-9, atol=1e-9)
    energies = np.square((features - mean if centred else features) @ vectors[:, ::-1]).sum(axis=1)
    wanted = [int(np.argmax(each.cumsum() / each.sum() >= 0.9)) + 1 for each in energies]
    assert captured_dims(torch.from_numpy(features), basis, [90])[:, 0].tolist() == wanted
    np.testing.assert_allclose(basis.image_energies(torch.from_numpy(features)), energies, rtol=1e-4)


def test_images_of_low_rank_need_a_wide_basis_together() -> None:
    features = np.stack([known_rank_image(number) for number in range(40)]).astype(np.float64)
    tokens = features.reshape(-1, features.shape[-1])
    basis = SharedBasis(tokens.T @ tokens / len(tokens), None, CPU)
    assert dims_at(basis.energies, [100 - 1e-6]).tolist() == [GLOBAL_RANK]
    assert (captured_dims(torch.from_numpy(features), basis, [99])[:, 0] > OWN_RANK).all()


def test_standardized_energies_are_those_of_the_correlations(random: np.random.Generator) -> None:
    tokens = random.standard_normal((500, 6)) @ random.standard_normal((6, 6))
    tokens = tokens * [1, 10, 100, 1, 1, 1] + 5
    moment, mean = tokens.T @ tokens / len(tokens), tokens.mean(axis=0)
    wanted = np.linalg.eigvalsh(np.corrcoef(tokens.T))[::-1]
    np.testing.assert_allclose(standardized_energies(moment, mean, tokens.var(axis=0)), wanted, rtol=1e-6)


def test_a_channel_that_does_not_vary_is_no_direction(random: np.random.Generator) -> None:
    tokens = random.standard_normal((500, 4))
    tokens[:, 0] = 200
    moment, mean = tokens.T @ tokens / len(tokens), tokens.mean(axis=0)
    energies = standardized_energies(moment, mean, tokens.var(axis=0))
    assert float(energies.sum()) == pytest.approx(3, rel=1e-6)
    assert float(energies[3]) == pytest.approx(0, abs=1e-3)


def test_no_images_have_no_energy(random: np.random.Generator) -> None:
    tokens = random.standard_normal((20, 8))
    for basis in (SharedBasis(tokens.T @ tokens, None, CPU), SharedBasis(np.zeros((8, 8)), np.zeros(8), CPU)):
        assert basis.image_energies(torch.zeros(0, 5, 8)).shape == (0, 8)
        assert captured_dims(torch.zeros(0, 5, 8), basis).shape == (0, 4)
        assert captured_dims(torch.zeros(2, 0, 8), basis).tolist() == [[-1] * 4] * 2
