from functools import partial

import pytest
import timm
import torch

from kdcache.errors import ModelError
from kdcache.models import count_parameters, widen_last_block
from kdcache.models.wide_last import WidenedBlock

SMALL = {"img_size": 16, "patch_size": 4, "embed_dim": 12, "depth": 3, "num_heads": 3, "num_classes": 5}
small = partial(timm.create_model, "vit_tiny_patch16_224")


def build(**changes: object) -> torch.nn.Module:
    return small(**{**SMALL, **changes})


def test_parameters_are_the_papers() -> None:
    """7,313,896 as the released class has it."""
    model = widen_last_block(partial(timm.create_model, "deit_tiny_patch16_224"), width=384)
    assert count_parameters(model) == 7_313_896
    assert model.blocks[11].block.attn.num_heads == 6  # type: ignore[union-attr]


def test_only_the_last_block_is_wide() -> None:
    model = widen_last_block(build, width=24)
    images = torch.randn(2, 3, 16, 16)
    outputs = model.forward_intermediates(images, indices=[1, 2], output_fmt="NLC", intermediates_only=True)
    assert [tuple(each.shape) for each in outputs] == [(2, 16, 12), (2, 16, 24)]
    assert model(images).shape == (2, 5)
    assert model.feature_info[-1]["num_chs"] == 24


def test_the_wide_block_sees_all_tokens_projected_and_normalised() -> None:
    model = widen_last_block(build, width=24).eval()
    block = model.blocks[2]
    assert isinstance(block, WidenedBlock)
    assert block.project.bias is None
    inputs: list[torch.Tensor] = []
    block.block.register_forward_pre_hook(lambda module, args: inputs.append(args[0]))
    narrow: list[torch.Tensor] = []
    block.register_forward_pre_hook(lambda module, args: narrow.append(args[0]))
    with torch.inference_mode():
        model(torch.randn(2, 3, 16, 16))
        torch.testing.assert_close(inputs[0], block.norm(narrow[0] @ block.project.weight.T))
    assert inputs[0].shape == (2, 17, 24)


def test_the_entry_norm_has_the_eps_of_the_released_code() -> None:
    """1e-6: tokens of a variance of 1e-5 come out at 0.95 of unit variance, with torch's default at half of it."""
    block = WidenedBlock(torch.nn.Identity(), in_width=4, width=4)
    torch.nn.init.eye_(block.project.weight)
    tokens = torch.tensor([[[1.0, -1.0, 1.0, -1.0]]]) * 1e-5**0.5
    torch.testing.assert_close(block(tokens).var(correction=0), torch.tensor(1e-5 / (1e-5 + 1e-6)))


def test_every_parameter_gets_a_gradient() -> None:
    model = widen_last_block(build, width=24)
    model(torch.randn(2, 3, 16, 16)).sum().backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


def test_the_models_own_design_carries_over() -> None:
    model = widen_last_block(partial(build, init_values=0.1, qkv_bias=False, drop_path_rate=0.3), width=24)
    wide = model.blocks[2].block
    assert wide.ls1.gamma.shape == (24,)  # type: ignore[union-attr]
    assert wide.attn.qkv.bias is None  # type: ignore[union-attr]
    assert wide.drop_path1.drop_prob == pytest.approx(0.3)  # type: ignore[union-attr]


def test_what_cannot_be_widened() -> None:
    with pytest.raises(ModelError, match="ResNet is not one"):
        widen_last_block(partial(timm.create_model, "resnet18"), width=24)
    with pytest.raises(ModelError, match="head dimension 4, which does not divide the teacher's width 26"):
        widen_last_block(build, width=26)


def test_distilled_heads_are_widened_too() -> None:
    model = widen_last_block(
        partial(timm.create_model, "deit_tiny_distilled_patch16_224", img_size=32), width=384
    ).eval()
    assert model(torch.randn(1, 3, 32, 32)).shape == (1, 1000)
