"""Where architectures keep their blocks, and what timm's arguments for them are."""

from typing import Any

import pytest
import timm
import torch
from torch import nn

from kdcache.errors import ModelError
from kdcache.students.families import (
    block_lists,
    classifiers_of,
    depth_arguments,
    drop_head,
    family_of,
    width_arguments,
)

MODELS: dict[str, tuple[dict[str, Any], list[int]]] = {
    "vit_tiny_patch16_224": ({"img_size": 32, "embed_dim": 12, "num_heads": 3, "depth": 3}, [3]),
    "cait_xxs24_224": ({"img_size": 32, "embed_dim": 12, "num_heads": 3, "depth": 3}, [3]),
    "swin_tiny_patch4_window7_224": (
        {"img_size": 32, "window_size": 2, "embed_dim": 8, "num_heads": (1, 2), "depths": (2, 3)},
        [2, 3],
    ),
    "convnext_atto": ({"dims": (8, 8, 16, 16), "depths": (1, 2, 3, 1)}, [1, 2, 3, 1]),
    "resnet18": ({"layers": (1, 2, 1, 3)}, [1, 2, 1, 3]),
}


@pytest.mark.parametrize("name", MODELS)
def test_blocks_are_found_and_their_number_can_be_set(name: str) -> None:
    kwargs, counts = MODELS[name]
    model = timm.create_model(name, **kwargs)
    family = family_of(model, change="this")
    lists = block_lists(model, family)
    assert [len(blocks) for blocks in lists.values()] == counts
    assert all(model.get_submodule(path) is blocks for path, blocks in lists.items())
    once = [1] * len(counts)
    shallow = timm.create_model(name, **{**kwargs, **depth_arguments(family, once)})
    assert [len(blocks) for blocks in block_lists(shallow, family).values()] == once


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "cait_xxs24_224", "swin_tiny_patch4_window7_224"])
def test_the_last_width_can_be_set(name: str) -> None:
    kwargs, counts = MODELS[name]
    family = family_of(timm.create_model(name, **kwargs), change="this")
    wide: Any = timm.create_model(name, **{**kwargs, **width_arguments(family, len(counts), 32, 4)})
    assert wide.num_features == 32
    assert list(block_lists(wide, family).values())[-1][-1].attn.num_heads == 4
    if len(counts) > 1:
        with pytest.raises(ModelError, match="ends with multiples of 2, not with 33"):
            width_arguments(family, len(counts), 33, 3)


def test_other_families_are_refused_with_those_there_are() -> None:
    with pytest.raises(ModelError, match="this knows the blocks of ViT, CaiT, Swin, ConvNeXt, ResNet models"):
        family_of(timm.create_model("mobilenetv3_small_050"), change="this")


@pytest.mark.parametrize("name", MODELS)
def test_what_is_left_without_a_head_is_all_used(name: str) -> None:
    model: Any = drop_head(timm.create_model(name, **MODELS[name][0]))
    maps = model.forward_intermediates(torch.randn(2, 3, 32, 32), indices=[-1], intermediates_only=True)
    maps[0].sum().backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


def test_models_that_timm_cannot_cut() -> None:
    with pytest.raises(ModelError, match="Identity has no intermediate outputs in timm"):
        drop_head(nn.Identity())


@pytest.mark.parametrize("name", MODELS)
def test_the_classifiers_are_what_the_number_of_classes_changes(name: str) -> None:
    kwargs = MODELS[name][0]
    model, other = (timm.create_model(name, **{**kwargs, "num_classes": classes}) for classes in (7, 9))
    shapes = {key: each.shape for key, each in other.state_dict().items()}
    changed = [each for key, each in model.named_parameters() if each.shape != shapes[key]]
    held = [each for layer in classifiers_of(model) for each in layer.parameters()]
    assert {id(each) for each in held} == {id(each) for each in changed} != set()


def test_a_distilled_model_has_two_classifiers() -> None:
    model = timm.create_model("deit_tiny_distilled_patch16_224", depth=1)
    assert classifiers_of(model) == (model.head, model.head_dist)
