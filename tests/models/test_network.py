"""Parts of a student run a second time: its blocks one by one, and all of it with some patches masked."""

from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from kdcache.errors import ModelError, TapError
from kdcache.models.network import Network
from kdcache.models.taps import Tap, TapReader

VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 3, "num_classes": 7}
CAIT = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 7}
IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def make(name: str = "vit_tiny_patch16_224", taps: tuple[Tap, ...] = (Tap("patch", -1),), **kwargs: Any) -> Network:
    torch.manual_seed(0)
    model = timm.create_model(name, **kwargs).eval()
    reader = TapReader(model, taps)
    return Network(model, lambda images: list(reader(model, images).values()))


def chained(network: Network, images: Tensor) -> Tensor:
    tokens = network.embed(images)
    for number in range(len(network.blocks)):
        tokens = network.run_block(number, tokens)
    return tokens


@pytest.mark.parametrize(
    ("name", "kwargs", "shapes", "num_prefix"),
    [
        ("vit_tiny_patch16_224", VIT, [(17, 24)] * 4, 1),
        ("deit_tiny_distilled_patch16_224", VIT, [(18, 24)] * 4, 2),
        ("cait_xxs24_224", CAIT, [(16, 24)] * 3, 0),
    ],
)
def test_blocks_one_after_another_make_the_last_tokens(
    name: str, kwargs: dict[str, Any], shapes: list[tuple[int, int]], num_prefix: int
) -> None:
    network = make(name, **kwargs)
    assert network.check_blocks(32) == shapes
    assert network.num_prefix_tokens == num_prefix
    with torch.inference_mode():
        (expected,) = network._tokens(IMAGES)
        assert torch.equal(chained(network, IMAGES)[:, num_prefix:], expected)


def test_the_embedding_is_detached_and_keeps_the_mode() -> None:
    network = make(**VIT)
    assert not network.embed(IMAGES).requires_grad
    assert not network.blocks[0]._forward_pre_hooks
    network._model.train()
    network.check_blocks(32)
    assert network._model.training


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("autocast", [False, True])
def test_a_block_gets_its_gradient(checkpointing: bool, autocast: bool) -> None:
    """Also after `embed` in the same autocast, and for an input without gradient under checkpointing."""
    network = make(**VIT)
    network._model.set_grad_checkpointing(checkpointing)
    network._model.train()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        network.run_block(0, network.embed(IMAGES)).square().mean().backward()
    found = {name for name, parameter in network._model.named_parameters() if parameter.grad is not None}
    assert found == {f"blocks.0.{name}" for name, _ in network.blocks[0].named_parameters()}


class Detour(nn.Module):
    """A block whose model does more than run it."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block, self.calls = block, 0

    def forward(self, tokens: Tensor) -> Tensor:
        self.calls += 1
        return self.block(tokens) * self.calls


def test_blocks_that_depend_on_more_than_tokens_are_refused() -> None:
    with pytest.raises(ModelError, match="blocks of Eva give other tokens one by one than in its forward"):
        make("eva02_tiny_patch14_224", img_size=28, embed_dim=24, depth=2, num_heads=3).check_blocks(28)
    network = make(**VIT)
    network._model.blocks[1] = Detour(network.blocks[1])
    with pytest.raises(ModelError, match="blocks of VisionTransformer give other tokens one by one"):
        network.check_blocks(32)


def test_students_without_a_row_of_blocks_are_refused() -> None:
    with pytest.raises(
        ModelError, match=r"ResNet has no row of blocks that run one by one \(ViT, DeiT and CaiT have\)"
    ):
        make("resnet10t").check_blocks(32)
    with pytest.raises(ModelError, match="ResNet has no patch embedding whose patches could be masked"):
        make("resnet10t").embedding_shape(32)
    with pytest.raises(TapError, match="drops patches in training"):
        torch.manual_seed(0)
        Network(timm.create_model("vit_tiny_patch16_224", patch_drop_rate=0.5, **VIT), lambda images: []).check_blocks(
            32
        )


@pytest.mark.parametrize(
    ("name", "kwargs", "shape"),
    [
        ("vit_tiny_patch16_224", VIT, (16, 24)),
        ("vit_tiny_patch16_224", {**VIT, "dynamic_img_size": True}, (16, 24)),
        ("cait_xxs24_224", CAIT, (16, 24)),
    ],
)
def test_a_masked_patch_is_replaced_before_the_position_embedding(
    name: str, kwargs: dict[str, Any], shape: tuple[int, int]
) -> None:
    network = make(name, **kwargs)
    assert network.embedding_shape(32) == shape
    mask = torch.rand(2, 16, generator=torch.Generator().manual_seed(1)) < 0.4
    token = torch.randn(24, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        (plain,) = network._tokens(IMAGES)
        (found,) = network.masked_tokens(IMAGES, mask, token)
        # What a masked patch shows makes no difference; what another shows does.
        where = mask.reshape(2, 1, 4, 4).repeat_interleave(8, 2).repeat_interleave(8, 3)
        (hidden,) = network.masked_tokens(torch.where(where, 7.0, IMAGES), mask, token)
        (other,) = network.masked_tokens(torch.where(where, IMAGES, 7.0), mask, token)
        (unmasked,) = network.masked_tokens(IMAGES, torch.zeros_like(mask), token)
        assert torch.equal(found, hidden)
        assert not torch.equal(found, other) and not torch.equal(found, plain)
        assert torch.equal(unmasked, plain) and torch.equal(network._tokens(IMAGES)[0], plain)


def test_the_mask_token_gets_a_gradient() -> None:
    network = make(**VIT)
    token = torch.zeros(24, requires_grad=True)
    mask = torch.zeros(2, 16, dtype=torch.bool)
    mask[:, 3] = True
    with torch.autocast("cpu", dtype=torch.bfloat16):
        network.masked_tokens(IMAGES, mask, token)[0].square().mean().backward()
    assert token.grad is not None and token.grad.abs().sum() > 0
