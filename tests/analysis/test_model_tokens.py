from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from kdcache.analysis.model_tokens import ModelTokens
from kdcache.analysis.result import SourceFacts
from kdcache.analysis.run import AnalyzeConfig, analyze, measure_checkpoint
from kdcache.errors import TapError
from kdcache.images import open_source
from kdcache.models import Tap, create_timm_model
from kdcache.pixels import normalize_pixels
from kdcache.students.lift import Lift
from kdcache.train.eval_images import eval_batches
from kdcache.views import EvalView
from tests.conftest import TEACHER, TEACHER_KWARGS

VIEW = EvalView(size=16, crop_pct=1.0, interpolation="bicubic", mean=(0.5,) * 3, std=(0.5,) * 3)
FACTS = SourceFacts(
    kind="model", path="tiny", digest="", teacher="tiny", weights="random", data="digits:test", num_images=0,
    num_views=1, num_read=0, num_blocks=0, view_recipe="", view={},
)  # fmt: skip


def tokens(images: int, *taps: Tap, model: nn.Module | None = None) -> ModelTokens:
    torch.manual_seed(0)
    model = model or create_timm_model(TEACHER, kwargs={**TEACHER_KWARGS, "depth": 4}).eval()
    source = open_source("digits:test")
    return ModelTokens(
        model, taps, view=VIEW, source=source, read_images=partial(eval_batches, source, VIEW), num_images=images,
        batch_size=5, facts=FACTS,
    )  # fmt: skip


ALL = tuple(Tap("patch", block) for block in range(4))


def lifted(width: int = 24) -> Lift:
    torch.manual_seed(0)
    trunk = create_timm_model(TEACHER, kwargs={**TEACHER_KWARGS, "embed_dim": 12})
    return Lift(trunk, width=width, num_classes=10).eval()


def test_every_pass_gives_the_same() -> None:
    source = tokens(12, *ALL)
    assert [layer.name for layer in source.layers] == [f"blocks.{block}/patch" for block in range(4)]
    assert {(layer.num_tokens, layer.num_channels, tuple(layer.grid)) for layer in source.layers} == {(16, 24, (4, 4))}
    first, second = (list(source.batches()) for _ in range(2))
    assert [len(batch[0]) for batch in first] == [5, 5, 2]
    for one, other in zip(first, second, strict=True):
        for a, b in zip(one, other, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0)
    assert (source.facts.num_images, source.facts.num_read, source.facts.num_blocks) == (360, 12, 4)
    assert (source.facts.view_recipe, source.facts.view["size"]) == ("eval", 16)


def test_depth_and_checkpoints_agree() -> None:
    source = tokens(12, *ALL)
    analysis, _ = analyze(source, AnalyzeConfig(permutations=1), device=torch.device("cpu"), left_out=[])
    assert set(analysis.depth) == {"entropy", "magnitude", "intensity"}
    assert analysis.layer_pairs is not None
    assert analysis.made_from["ranks of all tokens"] == "a pass over 12 of 360 images"
    checkpoint = measure_checkpoint(source, "now")
    np.testing.assert_allclose(checkpoint.entropy_bits, analysis.depth["entropy"].values, atol=1e-9)
    np.testing.assert_allclose(checkpoint.magnitude, analysis.depth["magnitude"].values, rtol=1e-6)
    np.testing.assert_allclose(checkpoint.intensity, analysis.depth["intensity"].values, rtol=1e-6)


def test_pictures() -> None:
    pictures = tokens(12, Tap("patch", -1)).pictures(3)
    assert pictures.pixels is not None
    assert pictures.pixels.shape == (3, 16, 16, 3)
    assert pictures.features is not None
    assert pictures.features.shape == (3, 4, 4, 24)
    assert len(pictures.keys) == 3


def test_lifted_tokens_come_last_and_have_the_rank_of_the_student() -> None:
    """24 channels of a student of 12: LayerNorm scales and shifts tokens, and adds no dimension."""
    model = lifted()
    with torch.no_grad():
        model.norm.weight.uniform_(0.5, 2)
        model.norm.bias.fill_(20)
    source = tokens(30, Tap("change"), Tap("patch", 0), model=model)
    assert [(layer.name, layer.block, layer.num_channels, layer.grid) for layer in source.layers] == [
        ("blocks.0/patch", 0, 12, [4, 4]),
        ("change/tokens", 2, 24, [4, 4]),
    ]
    pixels, _, _ = next(eval_batches(open_source("digits:test"), VIEW, [0], 1))
    images = normalize_pixels(torch.from_numpy(pixels), mean=VIEW.mean, std=VIEW.std)
    torch.testing.assert_close(next(source.batches())[1][:1], model.forward_features(images))
    analysis, curves = analyze(source, AnalyzeConfig(permutations=1), device=torch.device("cpu"), left_out=[])
    found = analysis.layers[1].ranks
    assert found is not None
    # Float32 second moments around a mean of 20 hold squares of 400 to 2e-5, beside a spread of about 1.
    assert curves["layers/1/ranks/all_tokens_centred"][11] == pytest.approx(1, abs=5e-5)
    assert found.all_tokens["99"] == 1 < found.all_tokens_centred["99"] <= 12


def test_lifted_tokens_are_no_block_of_the_profile_over_depth() -> None:
    torch.manual_seed(0)
    trunk = create_timm_model(TEACHER, kwargs={**TEACHER_KWARGS, "depth": 4})
    model = Lift(trunk, width=36, num_classes=10).eval()
    source = tokens(6, *ALL, Tap("change"), model=model)
    analysis, _ = analyze(source, AnalyzeConfig(permutations=1), device=torch.device("cpu"), left_out=[])
    assert len(analysis.layers) == 5
    assert {len(depth.values) for depth in analysis.depth.values()} == {4}


def test_only_lifted_students_have_tokens_of_a_change() -> None:
    with pytest.raises(TapError, match="change/tokens: this model makes no tokens of a change"):
        tokens(3, Tap("change"))


def test_taps_that_are_no_patch_tokens() -> None:
    for taps in ((), (Tap("logits"),), (Tap("prefix", 0),)):
        with pytest.raises(TapError, match="an analysis is of patch tokens"):
            tokens(3, *taps)
