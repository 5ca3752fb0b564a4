"""Every r-th block of a trained model, and adapters (arXiv:2404.09326)."""

from functools import partial
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

from kdcache.errors import ModelError
from kdcache.models import Tap, TapReader
from kdcache.students.student import StudentSpec, build_student, merge_student
from kdcache.students.weight_copy import WeightCopy
from kdcache.train.folder import save_weights

SMALL = {"img_size": 16, "patch_size": 4, "embed_dim": 12, "depth": 5, "num_heads": 3, "num_classes": 5}


def builder(name: str, kwargs: dict) -> tuple[nn.Module, "partial[nn.Module]"]:
    """A trained model, and what builds it with its weights, or another one with arguments."""
    full = timm.create_model(name, **kwargs)

    def build(**more: object) -> nn.Module:
        return timm.create_model(name, **{**kwargs, **more}) if more else full

    return full, partial(build)


@pytest.mark.slow
def test_trainable_parameters_are_the_papers() -> None:
    """10,616,832 for ViT-B, r = 2, rank 128."""
    _, build = builder("vit_base_patch16_224", {"num_classes": 0})
    model = WeightCopy(every=2, rank=128).apply(build)
    assert len(model.blocks) == 6
    assert sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad) == 10_616_832


@pytest.mark.parametrize(("every", "kept"), [(2, [0, 2, 4]), (3, [0, 3]), (1, [0, 1, 2, 3, 4])])
def test_the_kept_blocks_are_those_of_the_paper(every: int, kept: list[int]) -> None:
    full, build = builder("vit_tiny_patch16_224", SMALL)
    model = WeightCopy(every=every, adapters="none").apply(build)
    for mine, theirs in enumerate(kept):
        torch.testing.assert_close(model.blocks[mine].state_dict(), full.blocks[theirs].state_dict(), rtol=0, atol=0)
    assert len(model.blocks) == len(kept)
    for name in ("pos_embed", "cls_token", "norm.weight", "head.weight", "patch_embed.proj.weight"):
        torch.testing.assert_close(model.state_dict()[name], full.state_dict()[name], rtol=0, atol=0)
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "kwargs", "depth"),
    [
        ("vit_tiny_patch16_224", SMALL, {"depth": 3}),
        ("cait_xxs24_224", SMALL, {"depth": 3}),
        (
            "swin_tiny_patch4_window7_224",
            {"img_size": 32, "window_size": 2, "embed_dim": 8, "num_heads": (1, 2), "depths": (1, 4), "num_classes": 5},
            {"depths": (1, 2)},
        ),
    ],
)
@pytest.mark.parametrize("adapters", ["enhanced", "lora"])
def test_a_merged_student_is_a_plain_model_that_gives_the_same(
    name: str, kwargs: dict, depth: dict, adapters: str, tmp_path: Path
) -> None:
    size = kwargs["img_size"]
    save_weights(tmp_path / "full.safetensors", timm.create_model(name, **kwargs))
    plain = {key: value for key, value in kwargs.items() if key not in ("img_size", "num_classes")}
    # Every second block of a Swin would have another shift of its windows.
    change = WeightCopy(every=3 if "depths" in depth else 2, adapters=adapters, rank=4)
    spec = StudentSpec(name=name, kwargs=plain, num_classes=5, image_size=size, change=change)
    student = build_student(spec, weights=str(tmp_path / "full.safetensors"))
    trainable = {name for name, parameter in student.named_parameters() if parameter.requires_grad}
    assert all("head." in name or name.endswith((".up", ".down")) for name in trainable)
    assert sum(name.endswith(".up") for name in trainable) == (3 * 4 if adapters == "enhanced" else 3)
    for parameter in student.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.1)
    images = torch.randn(2, 3, size, size)
    student.eval().set_taps([Tap("patch")])
    with torch.inference_mode():
        logits, (tokens,), _ = student.outputs(images)
        merged, facts = merge_student(student, spec)
        assert facts == StudentSpec(name=name, kwargs={**plain, **depth}, num_classes=5, image_size=size)
        loaded = timm.create_model(name, **{**kwargs, **depth}).eval()
        loaded.load_state_dict(merged.model.state_dict())
        torch.testing.assert_close(loaded(images), logits)
        (read,) = TapReader(loaded, [Tap("patch", -1)])(loaded, images).values()
        torch.testing.assert_close(read, tokens)


def test_other_classes_keep_a_fresh_classifier(tmp_path: Path) -> None:
    """Self-supervised teachers have none."""
    for classes in (0, 7):
        save_weights(tmp_path / f"{classes}.safetensors", timm.create_model("vit_tiny_patch16_224", **{**SMALL, "num_classes": classes}))  # fmt: skip  # noqa: E501
        kwargs = {key: SMALL[key] for key in ("patch_size", "embed_dim", "depth", "num_heads")}
        spec = StudentSpec(
            name="vit_tiny_patch16_224", kwargs=kwargs, num_classes=5, image_size=16, change=WeightCopy(rank=2)
        )
        student = build_student(spec, weights=str(tmp_path / f"{classes}.safetensors"))
        assert student(torch.randn(1, 3, 16, 16)).shape == (1, 5)


def test_what_cannot_be_copied() -> None:
    spec = StudentSpec(name="vit_tiny_patch16_224", num_classes=5, image_size=224, change=WeightCopy())
    with pytest.raises(ModelError, match="weight-copy is made from the weights of a trained vit_tiny_patch16_224"):
        build_student(spec)
    _, build = builder("resnet10t", {"num_classes": 5})
    with pytest.raises(ModelError, match="the blocks of a ResNet have no linear layers qkv, proj, fc1 or fc2"):
        WeightCopy().apply(build)
    _, build = builder("mobilenetv3_small_050", {"num_classes": 5})
    with pytest.raises(ModelError, match="weight-copy knows the blocks of ViT, CaiT, Swin, ConvNeXt, ResNet models"):
        WeightCopy().apply(build)
    with pytest.raises(ValueError, match="adapters must be one of enhanced, lora, none"):
        WeightCopy(adapters="all")
    with pytest.raises(ValueError, match="rank=4 would be ignored: there are no adapters"):
        WeightCopy(adapters="none", rank=4)
    with pytest.raises(ValueError, match="every and rank must be at least 1, got 0, 128"):
        WeightCopy(every=0)


SWIN = {"img_size": 64, "window_size": 4, "embed_dim": 8, "num_heads": (1, 2), "num_classes": 5}


@pytest.mark.parametrize("every", [2, 4])
def test_blocks_whose_windows_would_shift_otherwise_are_refused(every: int) -> None:
    _, build = builder("swin_tiny_patch4_window7_224", {**SWIN, "depths": (2, 6)})
    message = (
        rf"every={every} puts block {every} of layers.1.blocks, trained with windows shifted by \(0, 0\), in the "
        r"place of block 1, which shifts them by \(2, 2\); choose an odd `every`"
    )
    with pytest.raises(ModelError, match=message):
        WeightCopy(every=every, adapters="none").apply(build)


def test_an_odd_every_keeps_windows_and_so_does_a_stage_of_one_window_or_one_block() -> None:
    kept = {
        3: {**SWIN, "depths": (2, 6)},
        2: {**SWIN, "depths": (2, 6), "window_size": (8, 8)},  # the second stage has 8 x 8 tokens: one window
        6: {**SWIN, "depths": (2, 6)},
    }
    for every, kwargs in kept.items():
        full, build = builder("swin_tiny_patch4_window7_224", kwargs)
        model = WeightCopy(every=every, adapters="none").apply(build)
        for stage, blocks in enumerate(layer.blocks for layer in model.layers):
            for number, block in enumerate(blocks):
                assert block.shift_size == full.layers[stage].blocks[number * every].shift_size


def test_convolutional_blocks_are_copied_without_adapters() -> None:
    full, build = builder("resnet10t", {"num_classes": 5, "layers": (2, 2, 3, 2)})
    model = WeightCopy(adapters="none").apply(build)
    assert [len(getattr(model, f"layer{stage}")) for stage in range(1, 5)] == [1, 1, 2, 1]
    torch.testing.assert_close(model.layer3[1].state_dict(), full.layer3[2].state_dict())
