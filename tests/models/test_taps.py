import pytest
import timm
import torch

from kdcache.errors import TapError
from kdcache.models import Tap, TapReader, parse_tap
from kdcache.models.taps import check_logits, num_blocks, token_grid

IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def vit(**changes: object) -> torch.nn.Module:
    settings = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 3, "num_classes": 7}
    return timm.create_model("vit_tiny_patch16_224", **{**settings, **changes}).eval()


@pytest.mark.parametrize("text", ["blocks.-1/patch", "blocks.0/prefix", "head/logits", "blocks.23/patch"])
def test_taps_read_back(text: str) -> None:
    assert str(parse_tap(text)) == text


@pytest.mark.parametrize("text", ["blocks.1", "block.1/patch", "head", "blocks.x/patch", "blocks.1/cls", ""])
def test_what_is_no_tap(text: str) -> None:
    with pytest.raises(TapError, match=r"taps look like blocks.-1/patch"):
        parse_tap(text)


def test_a_block_that_does_not_exist() -> None:
    with pytest.raises(TapError, match=r"has 3 blocks; choose blocks.0 to blocks.2"):
        TapReader(vit(), [Tap("patch", 3)])
    assert Tap("patch", -3).resolve(3) == Tap("patch", 0)


def test_taps_are_raw_block_outputs_before_the_final_norm() -> None:
    model = vit()
    seen: dict[int, torch.Tensor] = {}
    for number, block in enumerate(model.blocks):
        block.register_forward_hook(lambda module, inputs, output, number=number: seen.update({number: output}))
    reader = TapReader(model, [parse_tap(tap) for tap in ("blocks.-1/patch", "blocks.0/prefix", "head/logits")])
    with torch.inference_mode():
        outputs = reader(model, IMAGES)
        logits = model(IMAGES)
    torch.testing.assert_close(outputs[Tap("patch", 2)], seen[2][:, 1:], rtol=0, atol=0)
    torch.testing.assert_close(outputs[Tap("prefix", 0)], seen[0][:, :1], rtol=0, atol=0)
    torch.testing.assert_close(outputs[Tap("logits")], logits, rtol=0, atol=0)


@pytest.mark.slow
def test_cait_taps_its_patch_blocks_and_never_class_attention() -> None:
    model = timm.create_model("cait_xxs24_224", num_classes=5).eval()
    assert num_blocks(model) == 24
    reader = TapReader(model, [parse_tap("blocks.-1/patch"), parse_tap("head/logits")])
    images = torch.randn(1, 3, 224, 224)
    seen: list[torch.Tensor] = []
    model.blocks[23].register_forward_hook(lambda module, inputs, output: seen.append(output))
    with torch.inference_mode():
        outputs = reader(model, images)
        torch.testing.assert_close(outputs[Tap("logits")], model(images), rtol=0, atol=0)
    torch.testing.assert_close(outputs[Tap("patch", 23)], seen[0], rtol=0, atol=0)
    assert outputs[Tap("patch", 23)].shape == (1, 196, 192)
    with pytest.raises(TapError, match="no prefix tokens"):
        TapReader(model, [parse_tap("blocks.-1/prefix")])


@pytest.mark.parametrize(
    ("name", "tokens", "channels"),
    [("resnet18", 1, 512), ("convnext_atto", 1, 320), ("deit_tiny_distilled_patch16_224", 4, 192)],
)
def test_other_architectures(name: str, tokens: int, channels: int) -> None:
    arguments = {"img_size": 32} if "deit" in name else {}
    model = timm.create_model(name, num_classes=5, **arguments).eval()
    reader = TapReader(model, [parse_tap("blocks.-1/patch"), parse_tap("head/logits")])
    with torch.inference_mode():
        outputs = reader(model, IMAGES)
        torch.testing.assert_close(outputs[Tap("logits")], model(IMAGES), rtol=0, atol=0)
    assert outputs[reader.taps[0]].shape == (2, tokens, channels)


@pytest.mark.parametrize(
    ("name", "arguments", "width"),
    [
        ("vit_tiny_patch16_224", {"img_size": 32, "embed_dim": 24, "depth": 2}, 24),
        ("vit_tiny_patch16_224", {"img_size": 32, "embed_dim": 24, "depth": 2, "global_pool": "avg"}, 24),
        ("deit_tiny_distilled_patch16_224", {"img_size": 32, "depth": 2}, 192),
        ("mobilenetv3_small_050", {}, 1024),
        ("resnet18", {}, 512),
    ],
)
def test_the_embedding_is_what_a_model_without_classifier_gives(
    name: str, arguments: dict[str, object], width: int
) -> None:
    model = timm.create_model(name, num_classes=5, **arguments).eval()
    headless = timm.create_model(name, num_classes=0, **arguments).eval()
    headless.load_state_dict(model.state_dict(), strict=False)
    for each in (model, headless):
        with torch.inference_mode():
            embedding = TapReader(each, [Tap("embedding")])(each, IMAGES)[Tap("embedding")]
            torch.testing.assert_close(embedding, headless(IMAGES), rtol=0, atol=0)
        assert embedding.shape == (2, width)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("vit_tiny_patch16_224", {"img_size": 32, "embed_dim": 24, "depth": 2}), ("mobilenetv3_small_050", {})],
)
def test_a_pooled_feature_is_never_taken_for_logits(name: str, arguments: dict[str, object]) -> None:
    model = timm.create_model(name, num_classes=0, **arguments)
    with pytest.raises(TapError, match=r"has no classifier \(num_classes=0\).*use head/embedding"):
        TapReader(model, [Tap("patch", -1), Tap("logits")])


def test_no_timm_model_has_the_tokens_of_a_change() -> None:
    with pytest.raises(TapError, match="has no change/tokens"):
        TapReader(vit(), [Tap("change")])


def test_one_forward_gives_patches_logits_and_embedding() -> None:
    model = vit()
    calls: list[int] = []
    model.patch_embed.register_forward_hook(lambda *_: calls.append(1))
    reader = TapReader(model, [Tap("patch", 0), Tap("logits"), Tap("embedding")])
    with torch.inference_mode():
        outputs = reader(model, IMAGES)
        torch.testing.assert_close(model.head(outputs[Tap("embedding")]), outputs[Tap("logits")])
    assert len(calls) == 1


def test_tokens_of_a_map_are_in_row_order() -> None:
    model = timm.create_model("resnet18", num_classes=5).eval()
    reader = TapReader(model, [Tap("patch", 3)])
    with torch.inference_mode():
        tokens = reader(model, IMAGES)[Tap("patch", 3)]
        maps = model.forward_intermediates(IMAGES, indices=[3], intermediates_only=True)[0]
    rows, columns = token_grid(model, 3, 32)
    torch.testing.assert_close(tokens.reshape(2, rows, columns, -1).permute(0, 3, 1, 2), maps)


# Each at an image size that is not its own: name, arguments, image size, grid of the last block.
FAMILIES = {
    "vit": ("vit_tiny_patch16_224", {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2}, 32, (4, 4)),
    "swin": (
        "swin_tiny_patch4_window7_224",
        {"img_size": 96, "embed_dim": 12, "depths": (1, 1, 1, 1), "num_heads": (1, 2, 3, 4)},
        96,
        (3, 3),
    ),
    "convnext": ("convnext_atto", {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32)}, 96, (3, 3)),
    "resnet": ("resnet18", {}, 96, (3, 3)),
    "mobilenetv3": ("mobilenetv3_small_050", {}, 96, (3, 3)),
    "mobilenetv4": ("mobilenetv4_conv_small_035", {}, 96, (3, 3)),
}
LAST = {"vit": "blocks.1", "swin": "layers.3", "convnext": "stages.3", "resnet": "layer4"}


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


def student(family: str, **changes: object) -> tuple[torch.nn.Module, torch.Tensor]:
    name, arguments, size, _ = FAMILIES[family]
    model = timm.create_model(name, num_classes=5, **arguments, **changes)
    return model, torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))


def test_any_family_gives_its_tokens_in_row_order(family: str) -> None:
    """Compared with the module's own output, which Swin holds as (B, H, W, C) and convolutions as (B, C, H, W)."""
    model, images = student(family)
    model.eval()
    seen: list[torch.Tensor] = []
    # MobileNets count stages by where they end, so the last one is not always the last module.
    name = LAST.get(family) or f"blocks.{model.stage_ends[-1] - 1}"
    model.get_submodule(name).register_forward_hook(lambda module, inputs, output: seen.append(output))
    reader = TapReader(model, [Tap("patch", -1), Tap("logits")])
    with torch.inference_mode():
        outputs = reader(model, images)
        tokens = outputs[reader.taps[0]]
        torch.testing.assert_close(outputs[Tap("logits")], model(images), rtol=0, atol=0)
    if family == "vit":
        expected = seen[0][:, 1:]
    elif family == "swin":
        expected = seen[0].reshape(2, -1, seen[0].shape[-1])
    else:
        expected = seen[0].permute(0, 2, 3, 1).reshape(2, -1, seen[0].shape[1])
    torch.testing.assert_close(tokens, expected, rtol=0, atol=0)
    rows, columns = token_grid(model, -1, images.shape[-1])
    assert (rows, columns) == FAMILIES[family][3]
    assert tokens.shape[1] == rows * columns


def test_gradients_of_any_family_reach_every_parameter(family: str) -> None:
    model, images = student(family)
    reader = TapReader(model, [Tap("patch", -1), Tap("logits")])
    outputs = reader(model.train(), images)
    (outputs[reader.taps[0]].square().mean() + outputs[Tap("logits")].square().mean()).backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


def test_checkpointed_gradients_of_any_family_are_the_same(family: str) -> None:
    gradients: list[list[torch.Tensor]] = []
    model, images = student(family)
    model.train()
    reader = TapReader(model, [Tap("patch", -1), Tap("logits")])
    calls: dict[str, int] = {}
    for name, module in model.named_modules():
        module.register_forward_pre_hook(lambda *_, name=name: calls.update({name: calls.get(name, 0) + 1}))
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        model.zero_grad()
        calls.clear()
        torch.manual_seed(2)  # Swin drops paths by default
        outputs = reader(model, images)
        (outputs[reader.taps[0]].square().mean() + outputs[Tap("logits")].square().mean()).backward()
        assert max(calls.values()) == (2 if enable else 1), "checkpointing runs blocks a second time, and only that"
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(checkpointed, plain, rtol=1e-4, atol=1e-6)


def test_dropout_of_any_family_is_that_of_an_ordinary_forward(family: str) -> None:
    """Whatever the order of the taps: with the same random state the logits are the same to the bit."""
    model, images = student(family, drop_rate=0.5, drop_path_rate=0.3)
    reader = TapReader(model.train(), [Tap("embedding"), Tap("patch", -1), Tap("logits")])
    torch.manual_seed(3)
    read = reader(model, images)[Tap("logits")]
    torch.manual_seed(3)
    torch.testing.assert_close(read, model(images), rtol=0, atol=0)
    torch.manual_seed(4)
    assert not torch.equal(read, model(images))


def test_swin_at_other_image_sizes_keeps_the_order() -> None:
    """Windows shrink with the map, and a map that windows do not divide is padded; a middle stage too."""
    for size, grids in ((64, [(16, 16), (8, 8), (4, 4), (2, 2)]), (112, [(28, 28), (14, 14), (7, 7), (4, 4)])):
        arguments = {**FAMILIES["swin"][1], "img_size": size}
        model = timm.create_model(FAMILIES["swin"][0], num_classes=5, **arguments).eval()
        images = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(1))
        seen: list[torch.Tensor] = []
        for stage in model.layers:
            stage.register_forward_hook(lambda module, inputs, output, seen=seen: seen.append(output))
        reader = TapReader(model, [Tap("patch", block) for block in range(4)])
        with torch.inference_mode():
            outputs = reader(model, images)
        for block, (grid, maps) in enumerate(zip(grids, list(seen), strict=True)):
            assert token_grid(model, block, size) == grid == maps.shape[1:3]
            torch.testing.assert_close(outputs[Tap("patch", block)], maps.flatten(1, 2), rtol=0, atol=0)


def test_distilled_training_gives_the_mean_of_both_heads() -> None:
    model = timm.create_model("deit_tiny_distilled_patch16_224", img_size=32, depth=2, num_classes=5).train()
    model.set_distilled_training(True)
    first, second = model(IMAGES)
    logits = TapReader(model, [Tap("logits")])(model, IMAGES)[Tap("logits")]
    torch.testing.assert_close(logits, (first + second) / 2, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "eva02_tiny_patch14_224"])
def test_patches_that_are_dropped_in_training_are_no_tap(name: str) -> None:
    model = timm.create_model(name, img_size=56, depth=1, patch_drop_rate=0.5, num_classes=5)
    with pytest.raises(TapError, match=r"drops patches in training.*leave patch_drop_rate out"):
        TapReader(model, [Tap("patch", -1)])
    assert TapReader(model, [Tap("logits")])(model.eval(), torch.randn(1, 3, 56, 56))[Tap("logits")].shape == (1, 5)


def test_a_model_whose_forward_differs_from_its_tap_is_refused() -> None:
    model = vit()
    with torch.inference_mode():
        logits = TapReader(model, [Tap("logits")])(model, IMAGES)[Tap("logits")]
        check_logits(model, IMAGES, logits)
        with pytest.raises(TapError, match=r"gives other logits than its forward \(relative error 0\.0\d\)"):
            check_logits(model, IMAGES, logits * 1.05)


def test_the_grid_and_the_mode_are_left_alone() -> None:
    model = vit().train()
    assert token_grid(model, -1, 32) == (4, 4)
    assert model.training


def test_a_model_without_intermediates() -> None:
    with pytest.raises(TapError, match="choose another timm model"):
        TapReader(torch.nn.Linear(2, 2), [Tap("logits")])
