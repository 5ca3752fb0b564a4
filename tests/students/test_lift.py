from functools import partial
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from kdcache_kernels.launches import Traffic
from torch._subclasses.fake_tensor import FakeTensorMode

from kdcache.errors import ModelError
from kdcache.models import Tap, TapReader, count_parameters
from kdcache.students.lift import Lift, LiftChange

SMALL = {"img_size": 16, "patch_size": 4, "embed_dim": 12, "depth": 2, "num_heads": 3, "num_classes": 5}


@pytest.mark.parametrize(
    ("width", "parameters"), [(384, 5_983_528), (256, 5_830_696), (320, 5_907_112), (448, 6_059_944)]
)
def test_parameters_are_the_papers(width: int, parameters: int) -> None:
    """DeiT-Tiny with 1,000 classes, as arXiv:2511.15572's code counts without its unused norm and head."""
    trunk = timm.create_model("deit_tiny_patch16_224")
    assert count_parameters(trunk) == 5_717_416
    unused = count_parameters(trunk.norm) + count_parameters(trunk.head)
    lift = Lift(trunk, width=width, num_classes=1000)
    assert count_parameters(lift) == parameters
    if width == 384:
        assert parameters + unused == 6_176_912


def test_logits_are_a_linear_map_of_the_mean_lifted_token() -> None:
    trunk = timm.create_model("vit_tiny_patch16_224", **SMALL)
    lift = Lift(trunk, width=24, num_classes=5).eval()
    images = torch.randn(2, 3, 16, 16)
    with torch.inference_mode():
        tokens = lift.forward_features(images)
        logits = lift.forward_head(tokens)
        raw = trunk.forward_intermediates(images, indices=[-1], output_fmt="NLC", intermediates_only=True)[0]
        torch.testing.assert_close(tokens, lift.norm(raw @ lift.project.weight.T))
        torch.testing.assert_close(logits, tokens.mean(1) @ lift.head.weight.T + lift.head.bias)
        torch.testing.assert_close(lift(images), logits, rtol=0, atol=0)
    assert tokens.shape == (2, 16, 24)
    torch.testing.assert_close(tokens.mean(-1), torch.zeros(2, 16), atol=1e-5, rtol=0)


def test_tokens_that_are_not_formed_are_the_same_tokens() -> None:
    lift = Lift(timm.create_model("vit_tiny_patch16_224", **SMALL), width=24, num_classes=5).double().eval()
    torch.nn.init.normal_(lift.norm.weight)
    torch.nn.init.normal_(lift.norm.bias)
    tokens = torch.randn(2, 16, 12, dtype=torch.float64)
    logits, formed = lift.finish(tokens)
    others, unformed = lift.finish_unformed(tokens)
    torch.testing.assert_close(others, logits, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(unformed.whole(), formed, rtol=1e-10, atol=1e-12)
    assert unformed.tokens.shape == (2, 16, 12)


@pytest.mark.parametrize("batch", [64, 256])
def test_a_step_holds_no_token_of_the_teachers_width(batch: int) -> None:
    """Counted at 192 to 768 in float32: the projection, its normalised form and the gradients of both."""
    peaks: dict[str, int] = {}
    lift = Lift(timm.create_model("deit_tiny_patch16_224", depth=1), width=768, num_classes=10)
    with FakeTensorMode(allow_non_fake_inputs=True):
        for form in ("formed", "unformed"):
            tokens = torch.empty(batch, 196, 192, requires_grad=True)
            stored = torch.empty(batch, 196, 768, dtype=torch.float16)
            with Traffic() as seen:
                if form == "formed":
                    logits, lifted = lift.finish(tokens)
                    loss = F.mse_loss(lifted, stored.float())
                else:
                    logits, unformed = lift.finish_unformed(tokens)
                    loss = unformed.mse(stored)
                (loss + logits.sum()).backward()
            peaks[form] = seen.peak_bytes
    one = batch * 196 * 768 * 4
    assert peaks["formed"] - peaks["unformed"] > 2 * one, {name: peak / one for name, peak in peaks.items()}


def test_every_parameter_gets_a_gradient() -> None:
    """Otherwise DDP would hang or need find_unused_parameters."""
    lift = Lift(timm.create_model("vit_tiny_patch16_224", **SMALL), width=24, num_classes=5)
    tokens = lift.forward_features(torch.randn(2, 3, 16, 16))
    logits = lift.forward_head(tokens)
    (logits.sum() + (tokens**2).sum()).backward()
    assert [name for name, parameter in lift.named_parameters() if parameter.grad is None] == []


def test_distilled_and_register_models_lift_too() -> None:
    for name in ("deit_tiny_distilled_patch16_224", "vit_small_patch14_reg4_dinov2"):
        changes = {"img_size": 28, "patch_size": 14} if "reg4" in name else {"img_size": 32}
        trunk = timm.create_model(name, embed_dim=12, depth=1, num_heads=3, **changes)
        lift = Lift(trunk, width=24, num_classes=5)
        side = changes["img_size"]
        assert lift(torch.randn(1, 3, side, side)).shape == (1, 5)


@pytest.mark.parametrize(
    ("name", "kwargs", "size", "tokens"),
    [
        ("vit_tiny_patch16_224", SMALL, 16, 16),
        ("deit_tiny_distilled_patch16_224", SMALL, 16, 16),
        ("cait_xxs24_224", SMALL, 16, 16),
        ("swin_tiny_patch4_window7_224", {"img_size": 64, "window_size": 2, "embed_dim": 8, "depths": (1, 1)}, 64, 64),
        ("convnext_atto", {"dims": (8, 8, 16, 16), "depths": (1, 1, 1, 1)}, 64, 4),
        ("resnet10t", {}, 64, 4),
        ("mobilenetv3_small_050", {}, 64, 4),
    ],
)
def test_every_family_lifts_and_keeps_nothing_unused(name: str, kwargs: dict, size: int, tokens: int) -> None:
    """Logits from the mean of the lifted last tokens, and a gradient in every parameter."""
    build = partial(timm.create_model, name, **{**kwargs, "num_classes": 5})
    lift = LiftChange(width=24).apply(build)
    assert isinstance(lift, Lift)
    images = torch.randn(2, 3, size, size)
    lifted = lift.forward_features(images)
    logits = lift.forward_head(lifted)
    assert (logits.shape, lifted.shape) == ((2, 5), (2, tokens, 24))
    (logits.sum() + (lifted**2).sum()).backward()
    assert [name for name, parameter in lift.named_parameters() if parameter.grad is None] == []
    last = Tap("patch", -1)
    reader = TapReader(lift.eval().trunk, [last])
    (raw,) = reader(lift.trunk, images).values()
    torch.testing.assert_close(lift.norm(lift.project(raw)), lift.forward_features(images), rtol=0, atol=0)


def test_models_without_outputs_are_refused_with_the_reason() -> None:
    with pytest.raises(ModelError, match="Linear has no intermediate outputs in timm, so that its head"):
        Lift(torch.nn.Linear(2, 2), width=24, num_classes=5)


def test_released_layers_are_torchs_own() -> None:
    """Uniform to 1 / sqrt(192): deviation .042, and a bias; timm's are normal at .02 without one."""
    build = partial(timm.create_model, "deit_tiny_patch16_224", depth=1)
    for init, std, has_bias in (("timm", 0.02, False), ("released", 192**-0.5 / 3**0.5, True)):
        lift = LiftChange(width=384, init=init).apply(build)
        assert float(lift.project.weight.detach().std()) == pytest.approx(std, rel=0.02)
        assert bool(lift.head.bias.detach().any()) is has_bias
    assert LiftChange(init="released").decays_embeddings
    assert not LiftChange().decays_embeddings


def test_embeddings_are_not_decayed() -> None:
    lift = Lift(timm.create_model("vit_tiny_patch16_224", **SMALL), width=24, num_classes=5)
    names = dict(lift.named_parameters())
    assert {"trunk.pos_embed", "trunk.cls_token"} <= lift.no_weight_decay()
    assert {"trunk.pos_embed", "trunk.cls_token"} <= names.keys()


def test_checkpointing_changes_memory_not_results() -> None:
    lift = Lift(timm.create_model("vit_tiny_patch16_224", **SMALL), width=24, num_classes=5)
    images = torch.randn(2, 3, 16, 16)
    plain = lift(images)
    lift.set_grad_checkpointing()
    torch.testing.assert_close(lift(images), plain)


def test_without_classes_it_gives_the_mean_lifted_token() -> None:
    build = partial(timm.create_model, "vit_tiny_patch16_224", **{**SMALL, "num_classes": 0})
    lift = LiftChange(width=24).apply(build).eval()
    assert isinstance(lift, Lift)
    images = torch.randn(2, 3, 16, 16)
    assert lift(images).shape == (2, 24) == (2, lift.num_features)
    torch.testing.assert_close(lift(images), lift.forward_features(images).mean(1), rtol=0, atol=0)
    assert not any(name.startswith("head") for name, _ in lift.named_parameters())


def test_it_has_the_parts_of_a_timm_model() -> None:
    """Features are the lifted tokens, pooled in front of the classifier, which may be replaced."""
    lift = Lift(timm.create_model("vit_tiny_patch16_224", **SMALL), width=24, num_classes=5).eval()
    images = torch.randn(2, 3, 16, 16)
    tokens = lift.forward_features(images)
    assert tokens.shape == (2, 16, 24)
    torch.testing.assert_close(lift.forward_head(tokens), lift(images), rtol=0, atol=0)
    torch.testing.assert_close(lift.forward_head(tokens, pre_logits=True), tokens.mean(1), rtol=0, atol=0)
    assert lift.get_classifier() is lift.head
    lift.reset_classifier(7)
    assert (lift.num_classes, lift(images).shape) == (7, (2, 7))
    lift.reset_classifier(0)
    assert (lift.num_classes, lift(images).shape) == (0, (2, 24))
    torch.testing.assert_close(lift(images), tokens.mean(1), rtol=0, atol=0)
    lift.reset_classifier(5)
    assert lift(images).shape == (2, 5)
    with pytest.raises(ValueError, match="global_pool='max'"):
        lift.reset_classifier(5, "max")


@pytest.mark.parametrize("init", ["timm", "released"])
def test_a_new_classifier_starts_as_the_first_did(init: Any) -> None:
    lift = Lift(timm.create_model("vit_tiny_patch16_224", **SMALL), width=400, num_classes=500, init=init)
    first = lift.head
    lift.reset_classifier(500)
    assert lift.head is not first
    assert isinstance(first, torch.nn.Linear) and isinstance(lift.head, torch.nn.Linear)
    assert float(lift.head.weight.detach().std()) == pytest.approx(float(first.weight.detach().std()), rel=0.05)
    assert bool(lift.head.bias.detach().any()) == bool(first.bias.detach().any()) == (init == "released")
