import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from kdcache.losses import feature_loss, pool_channels
from kdcache.losses.feature import FEATURE_LOSSES


def pair() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(2, 5, 8, generator=generator) for _ in range(2))


def test_each_kind_by_hand() -> None:
    student, teacher = pair()
    difference = student - teacher
    assert float(feature_loss(student, teacher, kind="mse")) == pytest.approx(float((difference**2).mean()))
    small = torch.where(difference.abs() < 1, difference**2 / 2, difference.abs() - 0.5).mean()
    assert float(feature_loss(student, teacher, kind="smooth_l1")) == pytest.approx(float(small))
    cosine = 1 - (F.normalize(student, dim=-1) * F.normalize(teacher, dim=-1)).sum(-1)
    assert float(feature_loss(student, teacher, kind="cosine")) == pytest.approx(float(cosine.mean()), rel=1e-5)
    normal = [
        (each - each.mean(-1, keepdim=True)) / (each.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
        for each in pair()
    ]
    exact = ((normal[0] - normal[1]) ** 2).mean()
    assert float(feature_loss(student, teacher, kind="normalized_mse")) == pytest.approx(float(exact), rel=1e-5)


def test_l1_cosine_token_by_token() -> None:
    student, teacher = (each.double() for each in pair())
    total = 0.0
    for one, other in zip(student.flatten(0, 1), teacher.flatten(0, 1), strict=True):
        cosine = float(one @ other) / math.sqrt(float(one @ one) * float(other @ other))
        total += sum(abs(float(a - b)) for a, b in zip(one, other, strict=True)) / 8
        total += math.log(1 + math.exp(-cosine))
    assert float(feature_loss(student, teacher, kind="l1_cosine")) == pytest.approx(total / 10, rel=1e-12)
    assert float(feature_loss(teacher, teacher, kind="l1_cosine")) == pytest.approx(
        math.log(1 + math.exp(-1)), rel=1e-12
    )


@pytest.mark.parametrize("kind", FEATURE_LOSSES)
def test_gradients_by_finite_differences(kind: Any) -> None:
    student, teacher = (each.double() for each in pair())
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda tokens: feature_loss(tokens, teacher, kind=kind), (student,))


def test_half_precision_is_computed_in_single() -> None:
    student, teacher = pair()
    assert feature_loss(student.half() * 300, teacher, kind="mse").dtype == torch.float32
    assert torch.isfinite(feature_loss(student.half() * 300, teacher, kind="mse"))


def test_mistakes_are_named() -> None:
    student, teacher = pair()
    with pytest.raises(ValueError, match=r"\(2, 5, 8\) and teacher tokens \(2, 5, 4\)"):
        feature_loss(student, teacher[..., :4], kind="mse")
    with pytest.raises(ValueError, match="l1_cosine, got 'l3'"):
        feature_loss(student, teacher, kind="l3")


def test_pooling_384_to_192_is_pair_means() -> None:
    tokens = torch.randn(2, 3, 384)
    pooled = pool_channels(tokens, 192)
    torch.testing.assert_close(pooled, tokens.reshape(2, 3, 192, 2).mean(-1))


def test_uneven_pooling_follows_the_adaptive_bins() -> None:
    tokens = torch.randn(1, 2, 1024)
    pooled = pool_channels(tokens, 192)
    for channel in (0, 1, 77, 191):
        low, high = math.floor(channel * 1024 / 192), math.ceil((channel + 1) * 1024 / 192)
        torch.testing.assert_close(pooled[..., channel], tokens[..., low:high].mean(-1))


def test_pooling_up_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="cannot pool 4 channels to 8"):
        pool_channels(torch.zeros(1, 1, 4), 8)
