from functools import partial

import numpy as np
import pytest
import torch

from kdcache.analysis.model_tokens import ModelTokens
from kdcache.analysis.result import SourceFacts
from kdcache.analysis.run import AnalyzeConfig, analyze, measure_checkpoint
from kdcache.errors import TapError
from kdcache.images import open_source
from kdcache.models import Tap, create_timm_model
from kdcache.train.eval_images import eval_batches
from kdcache.views import EvalView
from tests.conftest import TEACHER, TEACHER_KWARGS

VIEW = EvalView(size=16, crop_pct=1.0, interpolation="bicubic", mean=(0.5,) * 3, std=(0.5,) * 3)
FACTS = SourceFacts(
    kind="model", path="tiny", digest="", teacher="tiny", weights="random", data="digits:test", num_images=0,
    num_views=1, num_read=0,
)  # fmt: skip


def tokens(images: int, *taps: Tap) -> ModelTokens:
    torch.manual_seed(0)
    model = create_timm_model(TEACHER, kwargs={**TEACHER_KWARGS, "depth": 4}).eval()
    source = open_source("digits:test")
    return ModelTokens(
        model, taps, view=VIEW, source=source, read_images=partial(eval_batches, source, VIEW), num_images=images,
        batch_size=5, facts=FACTS,
    )  # fmt: skip


ALL = tuple(Tap("patch", block) for block in range(4))


def test_every_pass_says_the_same() -> None:
    source = tokens(12, *ALL)
    assert [layer.name for layer in source.layers] == [f"blocks.{block}/patch" for block in range(4)]
    assert {(layer.num_tokens, layer.num_channels, tuple(layer.grid)) for layer in source.layers} == {(16, 24, (4, 4))}
    first, second = (list(source.batches()) for _ in range(2))
    assert [len(batch[0]) for batch in first] == [5, 5, 2]
    for one, other in zip(first, second, strict=True):
        for a, b in zip(one, other, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0)
    assert (source.facts.num_images, source.facts.num_read) == (360, 12)


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


def test_taps_that_are_no_patch_tokens() -> None:
    for taps in ((), (Tap("logits"),), (Tap("prefix", 0),)):
        with pytest.raises(TapError, match="an analysis is of patch tokens"):
            tokens(3, *taps)
