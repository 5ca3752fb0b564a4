"""Adapters start as nothing, train alone and merge exactly."""

import pytest
import torch
from torch import nn

from kdcache.students.adapters import AdaptedLinear


def trained(linear: nn.Linear, **settings: object) -> AdaptedLinear:
    adapted = AdaptedLinear(linear, rank=2, **settings)
    nn.init.normal_(adapted.up)
    return adapted


@pytest.mark.parametrize("settings", [{}, {"parts": (0, 2), "num_parts": 3}, {"parts": (0, 1, 2), "num_parts": 3}])
def test_an_adapter_starts_as_the_layer_it_is_beside(settings: dict[str, object]) -> None:
    linear, tokens = nn.Linear(5, 12), torch.randn(2, 7, 5)
    expected = linear(tokens)
    adapted = AdaptedLinear(linear, rank=2, **settings)
    torch.testing.assert_close(adapted(tokens), expected, rtol=0, atol=0)
    adapted(tokens).square().sum().backward()
    assert linear.weight.grad is None
    assert linear.bias.grad is None
    assert adapted.up.grad is not None
    assert bool(adapted.up.grad.abs().sum() > 0)


def test_each_part_adds_its_own_product() -> None:
    linear, tokens = nn.Linear(5, 12), torch.randn(3, 5)
    adapted = trained(linear, parts=(0, 2), num_parts=3)
    expected = linear(tokens)
    expected[:, 0:4] += tokens @ (adapted.up[0] @ adapted.down[0]).T
    expected[:, 8:12] += tokens @ (adapted.up[1] @ adapted.down[1]).T
    torch.testing.assert_close(adapted(tokens), expected)


@pytest.mark.parametrize("bias", [True, False])
def test_a_merged_layer_gives_the_same(bias: bool) -> None:
    linear, tokens = nn.Linear(5, 12, bias=bias), torch.randn(3, 5)
    before = linear.weight.detach().clone()
    adapted = trained(linear, parts=(0, 1, 2), num_parts=3)
    merged = adapted.merged()
    torch.testing.assert_close(merged(tokens), adapted(tokens))
    assert all(parameter.requires_grad for parameter in merged.parameters())
    torch.testing.assert_close(adapted.linear.weight, before, rtol=0, atol=0)
