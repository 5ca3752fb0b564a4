from functools import partial

import pytest
import timm
import torch

from kdcache.errors import ModelError
from kdcache.models import count_parameters
from kdcache.students.wide_last import Schedule, WideLastChange, WidenedBlock, widen_last_blocks

SMALL = {"img_size": 16, "patch_size": 4, "embed_dim": 12, "depth": 3, "num_heads": 3, "num_classes": 5}
small = partial(timm.create_model, "vit_tiny_patch16_224")


def build(**changes: object) -> torch.nn.Module:
    return small(**{**SMALL, **changes})


@pytest.mark.parametrize(
    ("schedule", "parameters", "widths", "heads"),
    [
        ("heads_step", 7_313_896, [384], [6]),
        ("fixed_step", 7_313_896, [384], [3]),
        ("heads_linear", 8_628_264, [256, 320, 384], [4, 5, 6]),
        ("fixed_linear", 8_458_816, [240, 312, 384], [3, 3, 3]),
    ],
)
@pytest.mark.slow
def test_parameters_are_the_papers(schedule: Schedule, parameters: int, widths: list[int], heads: list[int]) -> None:
    """As the released class has them for DeiT-Tiny and a teacher of 384 channels."""
    model = widen_last_blocks(partial(timm.create_model, "deit_tiny_patch16_224"), width=384, schedule=schedule)
    assert count_parameters(model) == parameters
    wide = [block for block in model.blocks if isinstance(block, WidenedBlock)]
    assert [block.project.out_features for block in wide] == widths
    assert [block.block.attn.num_heads for block in wide] == heads
    assert list(model.blocks[-len(wide) :]) == wide


def test_only_the_last_block_is_wide() -> None:
    model = widen_last_blocks(build, width=24)
    images = torch.randn(2, 3, 16, 16)
    outputs = model.forward_intermediates(images, indices=[1, 2], output_fmt="NLC", intermediates_only=True)
    assert [tuple(each.shape) for each in outputs] == [(2, 16, 12), (2, 16, 24)]
    assert model(images).shape == (2, 5)
    assert model.feature_info[-1]["num_chs"] == 24


def test_the_wide_block_sees_all_tokens_projected_and_normalised() -> None:
    model = widen_last_blocks(build, width=24).eval()
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
    model = widen_last_blocks(build, width=24)
    model(torch.randn(2, 3, 16, 16)).sum().backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


def test_the_models_own_design_carries_over() -> None:
    model = widen_last_blocks(partial(build, init_values=0.1, qkv_bias=False, drop_path_rate=0.3), width=24)
    wide = model.blocks[2].block
    assert wide.ls1.gamma.shape == (24,)
    assert wide.attn.qkv.bias is None
    assert wide.drop_path1.drop_prob == pytest.approx(0.3)


def test_what_cannot_be_widened() -> None:
    with pytest.raises(ModelError, match="those of a ResNet are convolutions; choose a ViT, CaiT or Swin student"):
        widen_last_blocks(partial(timm.create_model, "resnet18"), width=24)
    with pytest.raises(ModelError, match="head dimension 4, which does not divide the teacher's width 26"):
        widen_last_blocks(build, width=26)


@pytest.mark.parametrize(
    ("name", "kwargs", "width"),
    [
        ("cait_xxs24_224", SMALL, 24),
        ("swin_tiny_patch4_window7_224", {"img_size": 32, "window_size": 2, "embed_dim": 8, "num_heads": (1, 2)}, 32),
    ],
)
def test_other_transformers_widen_too(name: str, kwargs: dict, width: int) -> None:
    kwargs = {**kwargs, **({"depths": (1, 2)} if "swin" in name else {})}
    build = partial(timm.create_model, name, num_classes=5, **{k: v for k, v in kwargs.items() if k != "num_classes"})

    def builder(**more: object) -> torch.nn.Module:
        return timm.create_model(name, **{**kwargs, "num_classes": 5, **more})

    plain = build()
    model = widen_last_blocks(builder, width=width)
    size = kwargs["img_size"]
    images = torch.randn(2, 3, size, size)
    model(images).sum().backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
    last = model.forward_intermediates(images, indices=[-1], intermediates_only=True)[0]
    before = plain.forward_intermediates(images, indices=[-1], intermediates_only=True)[0]
    assert last.shape[1] == width
    assert before.shape[1] < width
    assert last.shape[2:] == before.shape[2:]


def test_mistakes_in_settings_are_named() -> None:
    with pytest.raises(ValueError, match="schedule must be one of heads_step, fixed_step, heads_linear, fixed_linear"):
        WideLastChange(schedule="wide")
    with pytest.raises(ValueError, match="init must be one of timm, released, got 'torch'"):
        WideLastChange(init="torch")
    with pytest.raises(ModelError, match=r"widelast \(fixed_step\) keeps the student's 3 heads, which does not divide"):
        widen_last_blocks(build, width=25, schedule="fixed_step")


def test_the_released_class_token_is_not_near_zero() -> None:
    build = partial(timm.create_model, "deit_tiny_patch16_224", depth=1)
    stds = {
        init: float(WideLastChange(width=384, init=init).apply(build).cls_token.detach().std())
        for init in ("timm", "released")
    }
    assert stds["timm"] < 1e-5
    assert stds["released"] == pytest.approx(0.02, rel=0.2)


def test_distilled_heads_are_widened_too() -> None:
    model = widen_last_blocks(
        partial(timm.create_model, "deit_tiny_distilled_patch16_224", img_size=32), width=384
    ).eval()
    assert model(torch.randn(1, 3, 32, 32)).shape == (1, 1000)
