"""Verdicts on tokens whose ranks are known."""

from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from kdcache.analysis.diagnosis import StudentShape, diagnose, layer_words, student_shape
from kdcache.analysis.meter import LayerMeter, Stopwatch
from kdcache.analysis.result import Curves, Diagnosis, Layer, SourceFacts
from kdcache.analysis.tokens import LayerFacts
from kdcache.cache.record import Array
from kdcache.cache.statistics import TokenStatistics
from kdcache.errors import ModelError

CPU = torch.device("cpu")
SOURCE = SourceFacts(
    kind="cache", path="caches/c", digest="", teacher="cait", weights="hub", data="imagenet/val", num_images=1000,
    num_views=1, num_read=1000, num_blocks=24, view_recipe="eval", view={"size": 224},
)  # fmt: skip


def measured(tokens: Array) -> tuple[Layer, Curves]:
    """A layer's ranks and curves, as an analysis makes them.

    Args:
        tokens: (images, N, C).
    """
    tokens = tokens.astype(np.float32)
    statistics = TokenStatistics(tokens.shape[-1], with_moments=True)
    statistics.update(tokens)
    facts = LayerFacts(
        name="blocks.23/patch", block=23, num_tokens=tokens.shape[1], num_channels=tokens.shape[2], grid=[]
    )
    limits = float(tokens.min()), float(tokens.max())
    meter = LayerMeter(facts, statistics, value_range=limits, device=CPU, stopwatch=Stopwatch(CPU))
    meter.update(torch.from_numpy(tokens))
    return meter.result(permutations=0, seed=0)


def diagnosed(tokens: Array, width: int, **facts: Any) -> Diagnosis:
    layer, curves = measured(tokens)
    assert layer.ranks is not None
    source = msgspec.structs.replace(SOURCE, num_images=len(tokens), num_read=len(tokens))
    source = msgspec.structs.replace(source, **facts)
    return diagnose(layer, layer.ranks, curves, StudentShape("student", width, 12), source=source)


def noise(rank: int = 96, channels: int = 96, images: int = 120) -> Array:
    """Tokens of mean zero, equally strong along `rank` directions of `channels`."""
    random = np.random.default_rng(0)
    basis = np.linalg.qr(random.standard_normal((channels, rank)))[0]
    return random.standard_normal((images, 16, rank)) @ basis.T


def reachable(tokens: Array, width: int) -> float:
    """Fraction of the variance that the best affine map of so many dimensions keeps, by a plain SVD."""
    flat = tokens.reshape(-1, tokens.shape[-1])
    energies = np.square(np.linalg.svd(flat - flat.mean(axis=0), compute_uv=False))
    return float(energies[:width].sum() / energies.sum())


def test_a_common_mean_does_not_hide_full_rank() -> None:
    """Uncentred, one direction holds 99 % of the energy; no map from 24 channels gets a third of the variance."""
    tokens = noise() + 30
    layer, _ = measured(tokens)
    assert layer.ranks is not None
    assert layer.ranks.shared is not None
    assert layer.ranks.shared["99"].p99 == 1
    found = diagnosed(tokens, 24)
    assert "falls short" in found.paragraph
    assert "suffices" not in found.paragraph
    assert found.fixed_map == "falls-short"
    assert found.reach == pytest.approx(reachable(tokens, 24), rel=1e-4)
    assert 0.25 < found.reach < 0.4
    assert "Uncentred, 1 shared component explains 99 % of the energy" in found.paragraph
    rows = dict(found.rows)
    assert rows["shared components, uncentred, 80/90/95/99 %"] == "1 / 1 / 1 / 1"
    assert rows["energy in the mean token"].startswith("99.")


def test_one_massive_channel_does_not_hide_full_rank() -> None:
    tokens = noise()
    tokens[..., 7] += 200
    found = diagnosed(tokens, 24)
    assert "falls short" in found.paragraph
    assert "suffices" not in found.paragraph
    assert found.reach == pytest.approx(reachable(tokens, 24), rel=1e-3)
    assert found.cautions == []


def test_a_massive_channel_that_varies_is_a_caution() -> None:
    """It holds nearly all of the variance, centred too, so the verdict is about it alone and says so."""
    tokens = noise()
    tokens[:, ::4, 7] += 200
    found = diagnosed(tokens, 24)
    assert found.fixed_map == "suffices"
    (caution,) = found.cautions
    assert "one direction holds 98." in caution or "one direction holds 99." in caution
    standardized = tokens / tokens.reshape(-1, 96).std(axis=0)
    assert f"24 components explain {100 * reachable(standardized, 24):.1f} %" in caution
    assert found.paragraph.startswith(f"Caution: {caution}")


def test_a_fixed_map_suffices_where_the_centred_rank_fits() -> None:
    tokens = noise(rank=20)
    found = diagnosed(tokens, 24)
    assert found.fixed_map == "suffices"
    assert "One fixed linear map with a bias suffices: 20 shared components" in found.paragraph
    assert "does not need the bias" in found.paragraph
    assert "Lift" not in found.paragraph


def test_the_bias_is_named_where_it_is_needed() -> None:
    """The mean token takes the one dimension that is missing without a bias."""
    tokens = noise(rank=24)
    tokens += np.linalg.qr(np.random.default_rng(1).standard_normal((96, 1)))[0][:, 0]
    with_bias, one_more = diagnosed(tokens, 24), diagnosed(tokens, 25)
    assert (with_bias.fixed_map, one_more.fixed_map) == ("suffices-with-bias", "suffices")
    flat = tokens.reshape(-1, 96)
    left_out = np.square(np.linalg.svd(flat, compute_uv=False))[24:].sum()
    without = 1 - left_out / np.square(flat - flat.mean(axis=0)).sum()
    assert f"without one it reaches {100 * without:.1f} %" in with_bias.paragraph
    assert "transform=mean" in with_bias.paragraph


@pytest.mark.parametrize("width", [96, 200])
def test_a_student_as_wide_as_the_teacher_lacks_nothing(width: int) -> None:
    found = diagnosed(noise() + 10, width)
    assert found.fixed_map == "suffices"
    assert found.reach == pytest.approx(1)
    assert "no width is missing" in found.paragraph


def test_lift_is_not_what_ranks_speak_for() -> None:
    found = diagnosed(noise(), 24)
    assert "Lift too, is such a map" in found.paragraph
    assert "WideLast, is not bound by it" in found.paragraph
    assert "each against the same student without the feature term" in found.paragraph
    assert not any("upported" in text for row in found.rows for text in row)
    assert any("their rank is the student's width" in caveat for caveat in found.caveats)


def test_images_and_view_recipe_are_part_of_the_verdict() -> None:
    found = diagnosed(noise(), 24, num_images=5000, view_recipe="rrc-flip", num_views=4)
    words = "120 of 5,000 images of imagenet/val, the first view of each, view recipe rrc-flip at 224 px"
    assert f"Measured on {words}." in found.paragraph
    assert dict(found.rows)["images, view recipe"] == words
    stored = diagnosed(noise(), 24, num_images=5000, num_read=0, num_views=4, view={})
    assert "Measured on 5,000 of 5,000 images of imagenet/val, 4 views of each, view recipe eval." in stored.paragraph


def test_few_images_few_tokens_and_random_weights_are_cautions() -> None:
    assert diagnosed(noise(images=100), 24).cautions == []
    assert "Caution: 99 images are too few" in diagnosed(noise(images=99), 24).paragraph
    few = diagnosed(noise(images=6), 24)
    assert "96 tokens cannot span 96 channels" in few.paragraph
    assert "cannot span" not in diagnosed(noise(images=7), 24).paragraph
    assert "weights are random" in diagnosed(noise(), 24, weights="random").paragraph


def test_layers_in_plain_words() -> None:
    layer, _ = measured(noise(images=2))
    assert layer_words(layer, SOURCE) == "The teacher's last block (blocks.23/patch)"
    unknown = msgspec.structs.replace(SOURCE, num_blocks=0)
    assert layer_words(layer, unknown) == "The teacher's block 23 (blocks.23/patch)"
    changed = msgspec.structs.replace(layer, name="change/tokens")
    assert layer_words(changed, SOURCE) == "The student's change (change/tokens)"


def test_shapes_of_students() -> None:
    assert student_shape("deit_tiny_patch16_224") == StudentShape("deit_tiny_patch16_224", 192, 12)
    assert student_shape("resnet18").width == 512
    assert student_shape("vit_tiny_patch16_224", {"embed_dim": 48, "depth": 4}) == StudentShape(
        "vit_tiny_patch16_224", 48, 4
    )
    with pytest.raises(ModelError, match="did you mean"):
        student_shape("deit_tiny_patch16_223")
