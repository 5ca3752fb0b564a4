import pytest
import timm
import torch

from kdcache.errors import TapError
from kdcache.models import Tap, TapReader, parse_tap
from kdcache.models.taps import num_blocks, token_grid

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
    for number, block in enumerate(model.blocks):  # type: ignore[arg-type]
        block.register_forward_hook(lambda module, inputs, output, number=number: seen.update({number: output}))
    reader = TapReader(model, [parse_tap(tap) for tap in ("blocks.-1/patch", "blocks.0/prefix", "head/logits")])
    with torch.inference_mode():
        said = reader(model, IMAGES)
        logits = model(IMAGES)
    torch.testing.assert_close(said[Tap("patch", 2)], seen[2][:, 1:], rtol=0, atol=0)
    torch.testing.assert_close(said[Tap("prefix", 0)], seen[0][:, :1], rtol=0, atol=0)
    torch.testing.assert_close(said[Tap("logits")], logits, rtol=0, atol=0)


def test_cait_taps_its_patch_blocks_and_never_class_attention() -> None:
    model = timm.create_model("cait_xxs24_224", num_classes=5).eval()
    assert num_blocks(model) == 24
    reader = TapReader(model, [parse_tap("blocks.-1/patch"), parse_tap("head/logits")])
    images = torch.randn(1, 3, 224, 224)
    seen: list[torch.Tensor] = []
    model.blocks[23].register_forward_hook(lambda module, inputs, output: seen.append(output))  # type: ignore[index]
    with torch.inference_mode():
        said = reader(model, images)
        torch.testing.assert_close(said[Tap("logits")], model(images), rtol=0, atol=0)
    torch.testing.assert_close(said[Tap("patch", 23)], seen[0], rtol=0, atol=0)
    assert said[Tap("patch", 23)].shape == (1, 196, 192)
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
        said = reader(model, IMAGES)
        torch.testing.assert_close(said[Tap("logits")], model(IMAGES), rtol=0, atol=0)
    assert said[reader.taps[0]].shape == (2, tokens, channels)


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
    model.patch_embed.register_forward_hook(lambda *_: calls.append(1))  # type: ignore[union-attr]
    reader = TapReader(model, [Tap("patch", 0), Tap("logits"), Tap("embedding")])
    with torch.inference_mode():
        outputs = reader(model, IMAGES)
        torch.testing.assert_close(model.head(outputs[Tap("embedding")]), outputs[Tap("logits")])  # type: ignore[operator]
    assert len(calls) == 1


def test_tokens_of_a_map_are_in_row_order() -> None:
    model = timm.create_model("resnet18", num_classes=5).eval()
    reader = TapReader(model, [Tap("patch", 3)])
    with torch.inference_mode():
        tokens = reader(model, IMAGES)[Tap("patch", 3)]
        maps = model.forward_intermediates(IMAGES, indices=[3], intermediates_only=True)[0]
    rows, columns = token_grid(model, 3, 32)
    torch.testing.assert_close(tokens.reshape(2, rows, columns, -1).permute(0, 3, 1, 2), maps)


def test_the_grid_and_the_mode_are_left_alone() -> None:
    model = vit().train()
    assert token_grid(model, -1, 32) == (4, 4)
    assert model.training


def test_a_model_without_intermediates() -> None:
    with pytest.raises(TapError, match="choose another timm model"):
        TapReader(torch.nn.Linear(2, 2), [Tap("logits")])
