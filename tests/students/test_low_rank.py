"""Linear layers as two of low rank (arXiv:2412.16719, 2512.00792)."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import timm
import torch
from torch import nn

from kdcache.errors import ModelError
from kdcache.models import count_parameters
from kdcache.models.factored import FactoredLinear
from kdcache.students.low_rank import LowRank

SMALL = {"img_size": 16, "patch_size": 4, "embed_dim": 12, "depth": 3, "num_heads": 3, "num_classes": 5}


def small(name: str = "vit_tiny_patch16_224", **changes: object) -> nn.Module:
    return timm.create_model(name, **{**SMALL, **changes})


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "cait_xxs24_224"])
def test_full_rank_is_the_dense_model(name: str) -> None:
    dense = small(name).eval()
    images = torch.randn(2, 3, 16, 16)
    expected = dense(images)
    layers = LowRank(rank=1).ranks(dense)
    assert {layer.split(".", 2)[2] for layer in layers} == {"attn.proj", "attn.qkv", "mlp.fc1", "mlp.fc2"}
    for layer in layers:
        dense.set_submodule(layer, FactoredLinear(dense.get_submodule(layer), 12))
    torch.testing.assert_close(dense(images), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "cait_xxs24_224"])
def test_a_layer_stays_dense_where_factors_would_save_nothing(name: str) -> None:
    """12 x 12 from rank 6, 12 x 36 from 9, 12 x 48 from 9.6: never more parameters than the dense model has."""
    model, layers = small(name), ("attn.proj", "attn.qkv", "mlp.fc1", "mlp.fc2")
    for rank, factored in ((1, layers), (5, layers), (6, layers[1:]), (8, layers[1:]), (9, layers[2:])):
        found = LowRank(rank=rank).ranks(model)
        assert found == {f"blocks.{block}.{layer}": rank for block in range(3) for layer in factored}
        changed = LowRank(rank=rank).apply(lambda: small(name))
        saved = sum(math.prod(sides) - rank * sum(sides) for sides in map(sides_in(model), found))
        assert count_parameters(changed) == count_parameters(model) - saved
    with pytest.raises(ModelError, match=r"at rank=10 two factors hold no fewer .* a rank below 10"):
        LowRank(rank=10).apply(lambda: small(name))


def sides_in(model: nn.Module) -> Callable[[str], tuple[int, int]]:
    """From a layer's name to its shape."""
    return lambda name: tuple(model.get_submodule(name).weight.shape)


def test_heads_that_talk_stay_dense() -> None:
    """CaiT's maps between attention heads are 4 x 4 in its smallest model: no linear layers of tokens."""
    model = LowRank(rank=1, init="random").apply(lambda: timm.create_model("cait_xxs24_224", depth=2))
    kinds = {type(getattr(block.attn, name)) for block in model.blocks for name in ("proj_l", "proj_w")}
    assert kinds == {nn.Linear}


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
    dense = count_parameters(model)
    total = sum(math.prod(sides_in(model)(name)) for name in LowRank(rank=1).ranks(model))
    settings = {"min_rank": 4, "rank_step": 4}
    for budget in (0.05, 0.2, 0.4, 0.6):
        for search in ("bottom", "top", "uniform"):
            steps = {} if search == "uniform" else settings
            change = LowRank(budget=budget, search=search, init="random", **steps)
            found = blocks_changed(change, model)
            small_model = change.apply(lambda: small(embed_dim=48))
            assert dense - count_parameters(small_model) >= budget * total
            if search == "uniform":
                assert sorted(found) == [0, 1, 2]
                assert all(rank % 8 == 0 for ranks in found.values() for rank in ranks)
            else:
                order = sorted(found, reverse=search == "top")
                assert order[0] == (0 if search == "bottom" else 2)
                assert all(found[block] == {4} for block in order[:-1])
    # One step less would not have met it.
    change = LowRank(budget=0.2, init="random", **settings)
    smaller = LowRank(budget=0.2, init="random", min_rank=4, rank_step=1)
    assert count_parameters(change.apply(lambda: small(embed_dim=48))) <= count_parameters(
        smaller.apply(lambda: small(embed_dim=48))
    )


@pytest.mark.parametrize(
    ("name", "kwargs", "others"),
    [
        ("deit_tiny_patch16_224", {"depth": 12, "embed_dim": 48, "img_size": 32}, [{"img_size": 224}, {"in_chans": 1}]),
        ("deit_tiny_distilled_patch16_224", {"depth": 4, "embed_dim": 96}, []),
        ("cait_xxs24_224", {"depth": 4, "embed_dim": 96, "img_size": 32}, [{"img_size": 64}]),
        ("swin_tiny_patch4_window7_224", {"embed_dim": 32, "depths": (2, 2, 2, 2)}, [{"img_size": 112}]),
        ("convnext_tiny", {"dims": (32, 32, 64, 64), "depths": (1, 1, 2, 1)}, [{"in_chans": 1}]),
    ],
)
def test_ranks_do_not_depend_on_head_images_or_channels(name: str, kwargs: dict, others: list[dict]) -> None:
    """So that weights fit a student that is built again with other classes."""
    models = [
        timm.create_model(name, **{**kwargs, **other})
        for other in ({"num_classes": 1000}, {"num_classes": 10}, {"num_classes": 0}, *others)
    ]
    for search in ("bottom", "top", "uniform"):
        for budget in (0.05, 0.2, 0.35, 0.5):
            change = LowRank(budget=budget, search=search, init="random")
            found = [change.ranks(model) for model in models]
            assert found[0] and all(ranks == found[0] for ranks in found)


@pytest.mark.parametrize("search", ["bottom", "top"])
def test_steps_are_fractions_of_the_width_unless_given(search: Any) -> None:
    """Of 4,096 the published search tries 1,024 and every 256 more: a quarter, and every sixteenth more."""
    model = timm.create_model("vit_tiny_patch16_224", embed_dim=64, depth=3, num_heads=2)
    for budget in (0.1, 0.2, 0.3, 0.5):
        default = LowRank(budget=budget, search=search, init="random")
        assert default.ranks(model) == replace(default, min_rank=16, rank_step=4).ranks(model)
        lowest = min(default.ranks(model).values())
        assert lowest >= 16 and lowest % 4 == 0
    # Narrow blocks too: of 2 channels a quarter and a sixteenth are at least 1.
    narrow = timm.create_model("vit_tiny_patch16_224", embed_dim=2, depth=1, num_heads=1, img_size=16)
    assert set(LowRank(budget=0.1, search=search, init="random").ranks(narrow).values()) == {1}


def test_stages_of_other_widths_have_steps_of_their_own() -> None:
    model = timm.create_model("swin_tiny_patch4_window7_224", embed_dim=32, depths=(1, 1, 1, 1), num_heads=(1, 1, 1, 1))
    ranks = LowRank(budget=0.6, init="random").ranks(model)
    assert {name.split(".")[1]: rank for name, rank in ranks.items() if "fc1" in name}["0"] == 32 // 4


def test_a_budget_that_cannot_be_met_says_how_far_it_goes() -> None:
    with pytest.raises(
        ModelError,
        match=r"low-rank \(bottom\) takes away at most \d+\.\d% of the param.*=0.99 wants",
    ):
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
