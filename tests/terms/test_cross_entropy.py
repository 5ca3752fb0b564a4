import math
from pathlib import Path

import pytest
import torch

from kdcache.terms.base import Inputs, Needs
from kdcache.terms.cross_entropy import CrossEntropy
from tests.terms import support
from tests.terms.support import draw

LABELS = torch.tensor([2, 0, 1, 1])


def batch(dtype: torch.dtype = torch.float32) -> Inputs:
    return Inputs(draw(4, 3).to(dtype), LABELS, [], [], torch.zeros(4, 3, 16, 16))


def test_it_needs_labels_and_nothing_else() -> None:
    assert CrossEntropy().needs() == Needs(logits=True, labels=True)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_by_hand(smoothing: float) -> None:
    total = 0.0
    for row, label in zip(batch().logits.tolist(), LABELS.tolist(), strict=True):
        log_total = math.log(sum(math.exp(value) for value in row))
        wanted = [smoothing / 3 + (1 - smoothing) * (number == label) for number in range(3)]
        total -= sum(share * (value - log_total) for share, value in zip(wanted, row, strict=True))
    found = CrossEntropy(label_smoothing=smoothing)(batch(), None)
    assert float(found) == pytest.approx(total / 4, rel=1e-6)


def test_bf16_is_computed_in_fp32() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = CrossEntropy()(batch(torch.bfloat16), None)
    assert found.dtype == torch.float32
    assert float(found) == pytest.approx(float(CrossEntropy()(batch(), None)), rel=1e-2)


@pytest.mark.parametrize("smoothing", [-0.1, 1.1])
def test_smoothing_is_a_fraction(smoothing: float) -> None:
    with pytest.raises(ValueError, match=f"label_smoothing must be between 0 and 1, got {smoothing}"):
        CrossEntropy(label_smoothing=smoothing)


def test_it_falls_in_training(tiny_root: Path, tmp_path: Path) -> None:
    support.check_training(tiny_root, tmp_path / "run", CrossEntropy(label_smoothing=0.0), factor=0.95)
