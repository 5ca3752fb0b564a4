"""Linear layers as two of low rank (arXiv:2412.16719, 2512.00792)."""

import pytest
import timm
import torch
from torch import nn

from kdcache.errors import ModelError
from kdcache.models import count_parameters
from kdcache.students.low_rank import LowRank, factored

SMALL = {"img_size": 16, "patch_size": 4, "embed_dim": 12, "depth": 3, "num_heads": 3, "num_classes": 5}


def small(name: str = "vit_tiny_patch16_224", **changes: object) -> nn.Module:
    return timm.create_model(name, **{**SMALL, **changes})


@pytest.mark.parametrize("bias", [True, False])
def test_factors_are_the_best_of_their_rank(bias: bool) -> None:
    """The symmetric split of a truncated SVD: its error is the energy of the values left out."""
    layer = nn.Linear(20, 30, bias=bias)
    first, second = factored(layer, 7)
    assert isinstance(first, nn.Linear)
    assert isinstance(second, nn.Linear)
    assert first.bias is None
    assert (second.bias is not None) is bias
    values = torch.linalg.svdvals(layer.weight)
    error = torch.linalg.matrix_norm(second.weight @ first.weight - layer.weight)
    torch.testing.assert_close(error, values[7:].square().sum().sqrt())
    torch.testing.assert_close(first.weight.norm(dim=1), values[:7].sqrt())
    torch.testing.assert_close(second.weight.norm(dim=0), values[:7].sqrt())


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "cait_xxs24_224"])
def test_full_rank_is_the_dense_model(name: str) -> None:
    dense = small(name).eval()
    images = torch.randn(2, 3, 16, 16)
    expected = dense(images)
    model = LowRank(rank=1000).apply(lambda: dense)
    assert not any(isinstance(layer, nn.Linear) for layer in (model.blocks[0].attn.qkv, model.blocks[0].mlp.fc1))
    torch.testing.assert_close(model(images), expected, rtol=1e-4, atol=1e-5)


def test_parameters_are_the_papers() -> None:
    """All block layers of ViT-B/32 at rank 32, with 100 classes: 87.5 M become 7.3 M."""
    model = timm.create_model("vit_base_patch32_224", num_classes=100)
    assert round(count_parameters(model) / 1e6, 1) == 87.5
    assert round(count_parameters(LowRank(rank=32, init="random").apply(lambda: model)) / 1e6, 1) == 7.3


def test_swin_and_convnext_factor_too_and_resnet_has_nothing_to_factor() -> None:
    swin = timm.create_model(
        "swin_tiny_patch4_window7_224", img_size=32, window_size=2, embed_dim=8, num_heads=(1, 2), depths=(1, 1)
    )
    convnext = timm.create_model("convnext_tiny", dims=(8, 8, 16, 16), depths=(1, 1, 1, 1))
    for model, num_layers, size in ((swin, 8, 32), (convnext, 8, 64)):
        change = LowRank(rank=2)
        assert set(change.ranks(model).values()) == {2}
        assert len(change.ranks(model)) == num_layers
        assert change.apply(lambda model=model: model)(torch.randn(1, 3, size, size)).shape == (1, 1000)
    with pytest.raises(ModelError, match="the blocks of this ResNet have no linear layers to factor"):
        LowRank(rank=2).apply(lambda: timm.create_model("resnet10t"))


def blocks_changed(change: LowRank, model: nn.Module) -> dict[int, set[int]]:
    """Ranks in each block that has any."""
    found: dict[int, set[int]] = {}
    for name, rank in change.ranks(model).items():
        found.setdefault(int(name.split(".")[1]), set()).add(rank)
    return found


def test_searches_meet_the_budget_in_their_order() -> None:
    """Bottom and top begin with the block of their end and go to its lowest rank before they touch the next."""
    model = small(embed_dim=48)
    total = count_parameters(model)
    settings = {"min_rank": 4, "rank_step": 4}
    for budget in (0.05, 0.2, 0.4, 0.6):
        for search in ("bottom", "top", "uniform"):
            steps = {} if search == "uniform" else settings
            change = LowRank(budget=budget, search=search, init="random", **steps)  # type: ignore[arg-type]
            found = blocks_changed(change, model)
            small_model = change.apply(lambda: small(embed_dim=48))
            assert count_parameters(small_model) <= (1 - budget) * total
            if search == "uniform":
                assert sorted(found) == [0, 1, 2]
                assert all(rank % 8 == 0 for ranks in found.values() for rank in ranks)
            else:
                order = sorted(found, reverse=search == "top")
                assert order[0] == (0 if search == "bottom" else 2)
                assert all(found[block] == {4} for block in order[:-1])
    # One step less would not have met it.
    change = LowRank(budget=0.2, init="random", **settings)  # type: ignore[arg-type]
    smaller = LowRank(budget=0.2, init="random", min_rank=4, rank_step=1)
    assert count_parameters(change.apply(lambda: small(embed_dim=48))) <= count_parameters(
        smaller.apply(lambda: small(embed_dim=48))
    )


def test_a_budget_that_cannot_be_met_says_how_far_it_goes() -> None:
    with pytest.raises(ModelError, match=r"low-rank \(bottom\) takes away at most \d+\.\d% of the param.*=0.99"):
        LowRank(budget=0.99, min_rank=4).apply(small)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "give rank or budget, one of them"),
        ({"rank": 2, "budget": 0.5}, "give rank or budget, one of them"),
        ({"budget": 1.0}, "budget must be between 0 and 1"),
        ({"rank": 0}, "must be at least 1"),
        ({"budget": 0.5, "search": "middle"}, "search must be one of bottom, top, uniform"),
        ({"rank": 2, "search": "top"}, "search=top would be ignored"),
        ({"rank": 2, "min_rank": 4}, "min_rank=4 would be ignored"),
        ({"budget": 0.5, "search": "uniform", "rank_step": 4}, "rank_step=4 would be ignored"),
    ],
)
def test_mistakes_are_named(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LowRank(**settings)


def test_only_a_decomposition_needs_weights() -> None:
    assert LowRank(rank=2).needs_weights
    assert not LowRank(rank=2, init="random").needs_weights
    assert LowRank(rank=2).without_weights() == LowRank(rank=2, init="random")
