"""The tokens term: each distance, each adapter, what runs fused, training."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from kdcache import ops
from kdcache.losses import feature_loss, pool_channels
from kdcache.losses.feature import FEATURE_LOSSES
from kdcache.terms.tokens import Tokens
from tests.terms import support
from tests.terms.support import apply, draw, loss_of, make_modules, pack

FUSED = ("mse", "smooth_l1", "cosine")


def tokens(**settings: Any) -> Tokens:
    return Tokens(**settings)


@pytest.mark.parametrize("codec", ["fp16", "bf16", "int8"])
@pytest.mark.parametrize("kind", FEATURE_LOSSES)
def test_projected_tokens_against_packed_targets(kind: str, codec: str) -> None:
    """Packed targets go to the loss as they are; the result is that of projecting and decoding first."""
    student, targets = draw(4, 16, 12), pack(draw(4, 16, 24, seed=1), (4, 4), codec=codec)
    term = tokens(loss=kind)
    modules = make_modules(term, [student], [targets])
    adapter = modules[0].adapter
    assert isinstance(adapter, ops.FeatureLoss if kind in FUSED else nn.Linear)
    project = adapter.projection if kind in FUSED else adapter
    expected = feature_loss(project(student), targets.decode(), kind=kind)
    torch.testing.assert_close(apply(term, [student], [targets], modules), expected)


@pytest.mark.parametrize("width", [12, 24, 48])
@pytest.mark.parametrize("kind", FEATURE_LOSSES)
def test_pooling_meets_on_the_narrower_side(kind: str, width: int) -> None:
    student, targets = draw(4, 16, width), pack(draw(4, 16, 24, seed=1), (4, 4), codec="fp16")
    term = tokens(loss=kind, adapter="pool")
    assert list(make_modules(term, [student], [targets]).parameters()) == []
    narrow = min(width, 24)
    expected = feature_loss(
        pool_channels(student, narrow),
        pool_channels(targets.decode(), narrow),
        kind=kind,
    )
    torch.testing.assert_close(loss_of(term, student, targets), expected)


@pytest.mark.parametrize("kind", FEATURE_LOSSES)
def test_equal_widths_need_no_adapter(kind: str) -> None:
    student, targets = draw(4, 16, 24), pack(draw(4, 16, 24, seed=1), (4, 4), codec="int8")
    term = tokens(loss=kind, adapter="none")
    assert list(make_modules(term, [student], [targets]).parameters()) == []
    expected = feature_loss(student, targets.decode(), kind=kind)
    torch.testing.assert_close(loss_of(term, student, targets), expected)


@pytest.mark.parametrize("kind", FEATURE_LOSSES)
@pytest.mark.parametrize("adapter", ["linear", "pool"])
def test_packed_targets_autocast_and_accumulation(kind: str, adapter: str) -> None:
    term, student, teacher = tokens(loss=kind, adapter=adapter), draw(4, 16, 12), draw(4, 16, 24, seed=1)
    support.check_packed_targets(term, student, teacher, (4, 4))
    support.check_autocast(term, student, teacher, (4, 4), rtol=2e-2)
    support.check_accumulation(term, student, teacher, (4, 4))


def test_what_is_refused() -> None:
    with pytest.raises(
        ValueError, match="loss must be one of mse, smooth_l1, l1, cosine, normalized_mse, l1_cosine, got 'l3'"
    ):
        tokens(loss="l3")
    with pytest.raises(ValueError, match="adapter must be one of linear, pool, none, got 'conv'"):
        tokens(adapter="conv")
    message = r"the student's tokens have 12 channels and a:blocks.1/patch \(fp32\) has 24; with adapter=none"
    with pytest.raises(ValueError, match=message):
        loss_of(tokens(adapter="none"), draw(2, 16, 12), pack(draw(2, 16, 24), (4, 4)))


@pytest.mark.slow
def test_it_falls_in_training(tiny_root: Path, tmp_path: Path) -> None:
    term = Tokens(weight=1.0, teacher=("blocks.1/patch:int8", "blocks.0/patch"), student_block=(1, 0))
    support.check_training(tiny_root, tmp_path / "run", term, factor=0.8)
