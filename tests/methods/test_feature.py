import pytest
import torch
from torch import nn

from kdcache import ops
from kdcache.cache import Cache
from kdcache.losses import feature_loss, pool_channels
from kdcache.methods import FeatureConfig
from kdcache.methods.feature import Feature
from kdcache.models import StudentSpec
from tests.methods.support import one_batch, student_says, targets_of


@pytest.mark.parametrize("kind", ["mse", "smooth_l1", "cosine", "normalized_mse"])
@pytest.mark.parametrize("codec", ["fp16", "bf16", "int8"])
def test_the_projected_tokens_against_packed_targets(tiny_cache: Cache, kind: str, codec: str) -> None:
    """Packed targets go to the loss as they are; the result is that of decoding first."""
    method = Feature(FeatureConfig(feature_loss=kind, logit_weight=0.0))  # type: ignore[arg-type]
    adapter = method.adapter(12, 24)
    assert adapter is not None
    project = adapter if isinstance(adapter, nn.Linear) else adapter.projection
    batch = one_batch(tiny_cache)
    logits, tokens = student_says(12)
    targets = targets_of(batch, features=f"blocks-1-patch-{codec}")
    assert targets.features is not None
    found = method.loss(logits, tokens, batch.labels, targets, adapter)["feature"]
    expected = feature_loss(project(tokens), targets.features.decode(), kind=kind)  # type: ignore[arg-type]
    torch.testing.assert_close(found, expected)


def test_only_what_must_exist_is_projected_outside_the_loss() -> None:
    for kind in ("mse", "smooth_l1", "cosine"):
        assert isinstance(Feature(FeatureConfig(feature_loss=kind)).adapter(12, 24), ops.FeatureLoss)  # type: ignore[arg-type]
    assert isinstance(Feature(FeatureConfig(feature_loss="normalized_mse")).adapter(12, 24), nn.Linear)


@pytest.mark.parametrize("width", [12, 24, 48])
def test_pooling_meets_on_the_narrower_side(tiny_cache: Cache, width: int) -> None:
    method = Feature(FeatureConfig(adapter="pool", logit_weight=0.0))
    assert method.adapter(width, 24) is None
    batch = one_batch(tiny_cache)
    logits, tokens = student_says(width)
    targets = targets_of(batch, features="blocks-1-patch-fp16")
    assert targets.features is not None
    narrow = min(width, 24)
    expected = feature_loss(pool_channels(tokens, narrow), pool_channels(targets.features.decode(), narrow), kind="mse")
    torch.testing.assert_close(method.loss(logits, tokens, batch.labels, targets, None)["feature"], expected)


def test_the_student_is_tapped_and_not_changed() -> None:
    spec = StudentSpec(name="m", num_classes=3, image_size=16)
    changed = Feature(FeatureConfig(block=3)).change(spec, teacher_width=24)
    assert (changed.change, changed.block) == ("none", 3)
    assert Feature(FeatureConfig(feature_weight=0.0)).change(spec, teacher_width=24).block is None


def test_an_unknown_adapter() -> None:
    with pytest.raises(ValueError, match="linear or pool, got 'conv'"):
        FeatureConfig(adapter="conv")  # type: ignore[arg-type]
