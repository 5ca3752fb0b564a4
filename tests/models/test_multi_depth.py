from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.optim import create_optimizer_v2
from torch import Tensor, nn
from torch.nn.functional import conv2d, gelu

from kdcache.methods.base import Method
from kdcache.methods.feature import feature
from kdcache.methods.lift import lift
from kdcache.models import Tap, TapReader, count_parameters, create_timm_model
from kdcache.models.build import size_arguments
from kdcache.models.multi_depth import MultiDepthBlock, MultiDepthNet, ResidualMultiDepth
from kdcache.train import train
from kdcache.train.folder import load_student
from tests.train.support import losses, tiny_run

SMALL: dict[str, Any] = {"dims": (8, 16), "depths": (1, 2), "stem_stride": 1, "num_classes": 5}


@pytest.fixture
def small() -> MultiDepthNet:
    torch.manual_seed(0)
    model = create_timm_model("multi_depth_tiny", kwargs=SMALL).eval()
    assert isinstance(model, MultiDepthNet)
    return model


@pytest.fixture
def images() -> Tensor:
    return torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class SuperResolution(nn.Module):
    """The paper's x2 network around its blocks: 64 wide, six residual blocks, a pixel shuffle."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 64, 3, padding=1)
        self.body = nn.Sequential(*(ResidualMultiDepth(64) for _ in range(6)), nn.Conv2d(64, 64, 3, padding=1))
        self.up = nn.Sequential(nn.Conv2d(64, 256, 3, padding=1), nn.PixelShuffle(2))
        self.last = nn.Conv2d(64, 3, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        first = self.first(images)
        return self.last(self.up(self.body(first) + first))


def test_the_papers_network_has_its_parameters() -> None:
    network = SuperResolution()
    assert count_parameters(network) == 1_517_571
    assert network(torch.zeros(1, 3, 6, 5)).shape == (1, 3, 12, 10)


def test_the_block_is_its_definition() -> None:
    block, maps = MultiDepthBlock(4), torch.randn(2, 4, 6, 5)

    def conv(layer: nn.Module, values: Tensor) -> Tensor:
        weight, bias = layer.parameters()
        assert weight.shape == (4, 4, 3, 3)
        return conv2d(values, weight, bias, padding=1)

    first, _, second = block.deep
    expected = gelu(conv(second, gelu(conv(first, maps))) + conv(block.shallow, maps))
    torch.testing.assert_close(block(maps), expected)
    residual = ResidualMultiDepth(4, res_scale=0.5)
    torch.testing.assert_close(residual(maps), maps + 0.5 * residual.second(residual.first(maps)))
    assert count_parameters(block) == 3 * (9 * 4 * 4 + 4)


@pytest.mark.parametrize(("name", "parameters"), [("multi_depth_tiny", 6_244_232), ("multi_depth_small", 15_843_544)])
def test_timm_knows_the_models(name: str, parameters: int) -> None:
    assert name in timm.list_models("multi_depth*")
    model = create_timm_model(name)
    assert count_parameters(model) == parameters
    assert [each["reduction"] for each in model.feature_info] == [4, 8, 16, 32]
    assert size_arguments(name, 64) == {}, "it takes images of any size"


@torch.no_grad()
def test_taps_are_read_as_of_other_convnets(small: MultiDepthNet, images: Tensor) -> None:
    taps = [Tap("patch", 0), Tap("patch", -1), Tap("embedding"), Tap("logits")]
    found = list(TapReader(small, taps)(small, images).values())
    assert [tuple(each.shape) for each in found] == [(2, 64, 8), (2, 16, 16), (2, 16), (2, 5)]
    assert torch.equal(found[-1], small(images))
    final, maps = small.forward_intermediates(images)
    assert isinstance(final, Tensor)
    assert torch.equal(final, small.forward_features(images))
    torch.testing.assert_close(found[1], maps[1].flatten(2).mT)
    assert torch.equal(small.forward_head(final), small(images))
    normed = small.forward_intermediates(images, indices=[-1], norm=True, intermediates_only=True)
    early = small.forward_intermediates(images, indices=[0], stop_early=True, intermediates_only=True)
    assert isinstance(normed, list)
    assert isinstance(early, list)
    assert len(normed) == len(early) == 1
    assert torch.equal(normed[0], final)
    assert torch.equal(early[0], maps[0])


@torch.no_grad()
def test_features_only_gives_the_stages(images: Tensor) -> None:
    sizes: dict[str, Any] = {"dims": (8, 16), "depths": (1, 2), "out_indices": (0, 1)}
    backbone: Any = timm.create_model("multi_depth_tiny", features_only=True, **sizes)
    assert backbone.feature_info.channels() == [8, 16]
    assert [tuple(each.shape[1:]) for each in backbone(images)] == [(8, 4, 4), (16, 2, 2)]


@torch.no_grad()
def test_classifiers_change_and_go(small: MultiDepthNet, images: Tensor) -> None:
    small.reset_classifier(7)
    assert small(images).shape == (2, 7)
    assert isinstance(small.get_classifier(), nn.Linear)
    small.reset_classifier(0)
    torch.testing.assert_close(small(images), small.forward_features(images).mean((2, 3)))
    small.prune_intermediate_layers([0])
    assert small(images).shape == (2, 8, 8, 8), "the first stage's map, neither norm nor pooling"
    assert small.num_features == 8


@pytest.mark.slow
def test_recomputed_activations_give_the_same_gradient(small: MultiDepthNet, images: Tensor) -> None:
    def gradient() -> list[Tensor]:
        small.train().zero_grad()
        small(images).square().sum().backward()
        return [parameter.grad.clone() for parameter in small.parameters() if parameter.grad is not None]

    plain = gradient()
    small.set_grad_checkpointing()
    again = gradient()
    assert len(plain) == len(list(small.parameters())) == len(again)
    for one, other in zip(plain, again, strict=True):
        torch.testing.assert_close(one, other)


def test_layers_can_have_rates_of_their_own(small: MultiDepthNet) -> None:
    optimizer = create_optimizer_v2(small, opt="adamw", lr=1e-3, layer_decay=0.5)
    assert len({group["lr_scale"] for group in optimizer.param_groups}) > 3


@pytest.mark.parametrize("preset", [feature, lift])
def test_it_trains_from_a_cache_and_comes_back(tiny_root: Path, tmp_path: Path, preset: Callable[..., Method]) -> None:
    kwargs = {"dims": [8, 16], "depths": [1, 1], "stem_stride": 1}
    method = preset(teacher=("blocks.-1/patch",))
    config = tiny_run("epochs=1", student="multi_depth_tiny", student_kwargs=kwargs, method=method)
    assert train(tiny_root, tmp_path / "run", config)["steps"] == 5
    assert all(entry["tokens"] > 0 for entry in losses(tmp_path / "run"))
    student, spec, _, _ = load_student(tmp_path / "run")
    assert spec.name == "multi_depth_tiny"
    assert student(torch.zeros(2, 3, 16, 16)).shape == (2, 10)


@pytest.mark.parametrize("kwargs", [{"dims": (8,)}, {"dims": (), "depths": ()}, {"dims": (8, 0)}])
def test_sizes_that_do_not_fit(kwargs: dict[str, Any]) -> None:
    make: Callable[..., nn.Module] = MultiDepthNet
    with pytest.raises(ValueError, match="dims and depths"):
        make(**{"dims": (8, 16), "depths": (1, 2), **kwargs})
