"""Proteus' term: its three errors by plain formulas, what is masked, what is refused, training."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from kdcache.errors import ModelError
from kdcache.models.network import Network
from kdcache.models.taps import Tap, TapReader
from kdcache.stream.targets import PackedTargets
from kdcache.terms.base import Inputs, Site, TokenShape
from kdcache.terms.proteus import Proteus
from tests.terms import support
from tests.terms.support import draw, make_modules, pack

VIT = {"img_size": 16, "patch_size": 4, "embed_dim": 12, "depth": 2, "num_heads": 3, "num_classes": 5}
IMAGES = draw(6, 3, 16, 16, seed=9)
GRID = (4, 4)


class Recorder:
    """A network whose masked run gives known tokens, and keeps what it was asked to mask."""

    def __init__(self, tokens: Tensor) -> None:
        self.tokens, self.masks, self.images = tokens, [], []

    def embedding_shape(self, image_size: int) -> tuple[int, int]:
        return self.tokens.shape[1], self.tokens.shape[2]

    def masked_tokens(self, images: Tensor, mask: Tensor, token: Tensor) -> Sequence[Tensor]:
        self.masks.append(mask)
        self.images.append(images)
        return torch.zeros(len(images), 1, 12), self.tokens[: len(images)] + token


def case(num_prefix: int = 1, **facts: Any) -> tuple[list[Tensor], list[Tensor], list[PackedTargets]]:
    """Student tokens, targets and packed targets: prefix, then patch."""
    student = [draw(6, 1, 12), draw(6, 16, 12, seed=1)]
    teacher = [draw(6, num_prefix, 24, seed=2), draw(6, 16, 24, seed=3)]
    return student, teacher, [pack(teacher[0], kind="prefix", **facts), pack(teacher[1], GRID, **facts)]


def loss_of(
    term: Proteus, student: Sequence[Tensor], targets: Sequence[PackedTargets], modules: Any, network: Any = None
) -> Tensor:
    count = len(student[0])
    return term(Inputs(torch.zeros(count, 3), torch.zeros(count), student, targets, IMAGES[:count], network), modules)


def site_of(student: Sequence[Tensor], targets: Sequence[PackedTargets], network: Any, grid: Any = GRID) -> Site:
    shapes = [TokenShape(1, student[0].shape[2], None), TokenShape(student[1].shape[1], student[1].shape[2], grid)]
    return Site(
        shapes, [each.column for each in targets], lambda column: support.statistics_of(draw(1, 4, 24)), network, 16
    )


def normed(tokens: Tensor) -> Tensor:
    """A layer norm over channels without scale and offset."""
    centred = tokens - tokens.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()


def headed(head: Any, tokens: Tensor) -> Tensor:
    centred = tokens - tokens.mean(-1, keepdim=True)
    scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    return (scaled * head[0].weight + head[0].bias) @ head[1].weight.T + head[1].bias


@pytest.mark.parametrize("weights", [(1.0, 0.0), (0.0, 1.0), (0.5, 2.0)], ids=str)
def test_class_and_all_tokens(weights: tuple[float, float]) -> None:
    student, teacher, targets = case()
    term = Proteus(class_weight=weights[0], all_weight=weights[1], masked_weight=0.0)
    modules = make_modules(term, student, targets, grids=[None, GRID])
    found = loss_of(term, student, targets, modules)
    own_class, own_patch = headed(modules[0].adapter, student[0]), headed(modules[1].adapter, student[1])
    gaps = [(own_class - normed(teacher[0])).square(), (own_patch - normed(teacher[1])).square()]
    of_all = (gaps[0].sum() + gaps[1].sum()) / (6 * 17 * 24)
    expected = weights[0] * gaps[0].mean() + weights[1] * of_all
    assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)


def test_masked_patches_of_some_images() -> None:
    student, teacher, targets = case()
    term = Proteus(class_weight=0.0, all_weight=0.0, masked_weight=2.0, masked_images=0.7, mask_ratio=0.3)
    network: Any = Recorder(draw(6, 16, 12, seed=5))
    torch.manual_seed(0)
    modules: Any = term.modules(site_of(student, targets, network))
    with torch.no_grad():
        modules[2].token.copy_(draw(12, seed=6))
    found = loss_of(term, student, targets, modules, network)
    (mask,) = network.masks
    assert mask.shape == (4, 16) and mask.sum(1).tolist() == [4] * 4  # int(.7 * 6) images, int(.3 * 16) patches
    assert torch.equal(network.images[0], IMAGES[:4])
    hidden = (network.tokens[:4] + modules[2].token)[mask]
    expected = 2 * (headed(modules[2].head, hidden) - normed(teacher[1])[:4][mask]).square().mean()
    assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    assert len(mask.unique(dim=0)) > 1
    loss_of(term, student, targets, modules, network)
    assert not torch.equal(network.masks[1], mask)


def test_at_least_one_patch_of_one_image_is_masked() -> None:
    student, _, targets = case()
    network: Any = Recorder(draw(6, 16, 12, seed=5))
    term = Proteus(masked_images=0.1, mask_ratio=0.01)
    loss_of(term, student, targets, term.modules(site_of(student, targets, network)), network)
    assert network.masks[0].sum(1).tolist() == [1]


def test_one_class_token_is_compared_whatever_registers_follow() -> None:
    student, _, targets = case(num_prefix=5)
    term = Proteus(masked_weight=0.0)
    modules = make_modules(term, student, targets, grids=[None, GRID])
    first = [pack(targets[0].decode()[:, :1], kind="prefix"), targets[1]]
    more = [torch.cat([student[0], draw(6, 3, 12, seed=8)], dim=1), student[1]]
    torch.testing.assert_close(
        loss_of(term, more, targets, modules), loss_of(term, student, first, modules), rtol=1e-6, atol=0
    )


def real(name: str = "vit_tiny_patch16_224", **changes: Any) -> tuple[nn.Module, Network]:
    torch.manual_seed(0)
    model = timm.create_model(name, **{**VIT, **changes}).train()
    reader = TapReader(model, [Tap("prefix", -1), Tap("patch", -1)])
    return model, Network(model, lambda images: list(reader(model, images).values()))


def test_the_masked_error_trains_student_head_and_mask_token() -> None:
    student, _, targets = case()
    model, network = real()
    term = Proteus(class_weight=0.0, all_weight=0.0)
    modules: Any = term.modules(site_of(student, targets, network))
    loss_of(term, student, targets, modules, network).backward()
    for parameter in (*modules[2].parameters(), model.blocks[0].mlp.fc1.weight, model.patch_embed.proj.weight):
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0


def test_the_gradient_by_finite_differences() -> None:
    student, _, targets = case()
    term = Proteus()
    network: Any = Recorder(draw(6, 16, 12, seed=5, dtype=torch.float64))
    modules: Any = term.modules(site_of(student, targets, network))
    modules.double()

    def loss(own_class: Tensor, own_patch: Tensor, token: Tensor) -> Tensor:
        torch.manual_seed(0)
        return torch.func.functional_call(
            Wrapped(term, modules, targets, network), {"modules_.2.token": token}, (own_class, own_patch)
        )

    inputs = [each[:2, :, :].double().requires_grad_() for each in student]
    assert torch.autograd.gradcheck(loss, (*inputs, modules[2].token), fast_mode=True)


class Wrapped(nn.Module):
    """A term's loss as a forward, so that its parameters can be replaced."""

    def __init__(self, term: Proteus, modules: nn.Module, targets: Sequence[PackedTargets], network: Any) -> None:
        super().__init__()
        self.term, self.modules_, self.network = term, modules, network
        self.targets = [each.rows(slice(2)) for each in targets]

    def forward(self, own_class: Tensor, own_patch: Tensor) -> Tensor:
        return loss_of(self.term, [own_class, own_patch], self.targets, self.modules_, self.network)


def test_packed_targets_and_autocast() -> None:
    student, _, _ = case()
    term = Proteus(masked_weight=0.0)
    targets = [
        pack(draw(6, 1, 24, seed=2), kind="prefix", codec="int8"),
        pack(draw(6, 16, 24, seed=3), GRID, codec="int8"),
    ]
    modules = make_modules(term, student, targets, grids=[None, GRID])
    plain = loss_of(term, student, targets, modules)
    decoded = [support.decoded(each) for each in targets]
    torch.testing.assert_close(loss_of(term, student, decoded, modules), plain, rtol=1e-6, atol=0)
    rough = [each.bfloat16().requires_grad_() for each in student]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = loss_of(term, rough, targets, modules)
    found.backward()
    assert found.dtype == torch.float32
    assert all(each.grad is not None and each.grad.abs().sum() > 0 for each in rough)
    torch.testing.assert_close(found, plain, rtol=1e-2, atol=0)


def test_halves_of_a_batch_average_to_the_whole_where_nothing_is_masked() -> None:
    student, _, targets = case()
    term = Proteus(masked_weight=0.0)
    modules = make_modules(term, student, targets, grids=[None, GRID])
    parts = [slice(3), slice(3, 6)]
    halves = [
        loss_of(term, [each[part] for each in student], [each.rows(part) for each in targets], modules)
        for part in parts
    ]
    torch.testing.assert_close(sum(halves) / 2, loss_of(term, student, targets, modules), rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"teacher": ("blocks.1/patch", "blocks.1/prefix")}, "a prefix tap and a patch tap, in this order"),
        ({"teacher": ("blocks.1/patch",)}, "a prefix tap and a patch tap, in this order, got blocks.1/patch"),
        ({"class_weight": 0.0, "all_weight": 0.0, "masked_weight": 0.0}, "are all 0; leave the term out"),
        ({"masked_weight": -1.0}, "weight must be >= 0, got -1"),
        ({"masked_images": 0.0}, "masked_images must be above 0, up to 1, got 0"),
        ({"mask_ratio": 1.0}, "mask_ratio must be between 0 and 1, got 1"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Proteus(**settings)


def test_patches_that_cannot_be_masked() -> None:
    student, _, targets = case()
    network: Any = Recorder(draw(6, 64, 12, seed=5))
    with pytest.raises(ValueError, match="the student embeds 64 patches and 16 are compared"):
        Proteus().modules(site_of(student, targets, network))
    small = [student[0], draw(6, 4, 12)]
    network = Recorder(draw(6, 4, 12, seed=5))
    with pytest.raises(ValueError, match="the student embeds 4 patches and 16 are compared"):
        Proteus(resize="student").modules(site_of(small, targets, network, (2, 2)))
    modules: Any = Proteus(resize="teacher").modules(site_of(small, targets, network, (2, 2)))
    assert float(loss_of(Proteus(resize="teacher"), small, targets, modules, network).detach()) > 0
    convnet = Network(timm.create_model("resnet10t", num_classes=5), lambda images: [])
    with pytest.raises(ModelError, match="ResNet has no patch embedding whose patches could be masked"):
        Proteus().modules(site_of(student, targets, convnet))


@pytest.mark.parametrize("masked_weight", [0.0, 1.0])
@pytest.mark.slow
def test_it_falls_in_training(tiny_root: Path, tmp_path: Path, masked_weight: float) -> None:
    term = Proteus(masked_weight=masked_weight, teacher=("blocks.1/prefix", "blocks.1/patch:int8"))
    support.check_training(tiny_root, tmp_path / "run", term, factor=0.9)
