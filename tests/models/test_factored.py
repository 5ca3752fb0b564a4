"""A linear layer as the product of two (arXiv:2412.16719)."""

import pytest
import torch
from torch import nn

from kdcache.models import count_parameters
from kdcache.models.factored import FactoredLinear, count_dense_parameters


@pytest.mark.parametrize("bias", [True, False])
def test_factors_are_the_best_of_their_rank(bias: bool) -> None:
    """The symmetric split of a truncated SVD: its error is the energy of the values left out."""
    layer = nn.Linear(20, 30, bias=bias)
    first, second = FactoredLinear(layer, 7)
    assert isinstance(first, nn.Linear)
    assert isinstance(second, nn.Linear)
    assert first.bias is None
    assert (second.bias is not None) is bias
    values = torch.linalg.svdvals(layer.weight)
    error = torch.linalg.matrix_norm(second.weight @ first.weight - layer.weight)
    torch.testing.assert_close(error, values[7:].square().sum().sqrt())
    torch.testing.assert_close(first.weight.norm(dim=1), values[:7].sqrt())
    torch.testing.assert_close(second.weight.norm(dim=0), values[:7].sqrt())


@pytest.mark.parametrize("shape", [(20, 30), (30, 20), (20, 20)], ids=str)
def test_full_rank_is_the_dense_layer(shape: tuple[int, int]) -> None:
    layer, inputs = nn.Linear(*shape), torch.randn(5, shape[0])
    torch.testing.assert_close(FactoredLinear(layer, min(shape))(inputs), layer(inputs), rtol=1e-4, atol=1e-5)


def test_a_random_start_keeps_the_bias_alone() -> None:
    layer = nn.Linear(20, 30)
    first, second = FactoredLinear(layer, 7, init="random")
    assert isinstance(first, nn.Linear)
    assert isinstance(second, nn.Linear)
    torch.testing.assert_close(second.bias, layer.bias, rtol=0, atol=0)
    assert bool((second.weight @ first.weight - layer.weight).norm() > 0.5 * layer.weight.norm())


def test_the_parameters_before_are_known() -> None:
    model = nn.Sequential(nn.Linear(20, 30), nn.Sequential(nn.Linear(30, 10, bias=False), nn.LayerNorm(10)))
    before = count_parameters(model)
    assert count_dense_parameters(model) == before
    for name, rank in (("0", 4), ("1.0", 7)):
        model.set_submodule(name, FactoredLinear(model.get_submodule(name), rank))
    assert count_parameters(model) == before - 20 * 30 + 4 * 50 - 30 * 10 + 7 * 40
    assert count_dense_parameters(model) == before
