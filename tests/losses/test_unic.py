import math

import pytest
import torch
from torch import Tensor

from kdcache.losses import cosine_smooth_l1, drop_teachers


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_distance_by_hand() -> None:
    student, teacher = draw(2, 5, 3), draw(2, 5, 3, seed=1)
    expected: list[float] = []
    for image, target in zip(student.tolist(), teacher.tolist(), strict=True):
        values: list[float] = []
        for s, t in zip(image, target, strict=True):
            inner = sum(a * b for a, b in zip(s, t, strict=True))
            cosine = inner / math.sqrt(sum(a * a for a in s) * sum(b * b for b in t))
            gaps = [abs(a - b) for a, b in zip(s, t, strict=True)]
            smooth = sum(gap**2 / 2 if gap < 1 else gap - 0.5 for gap in gaps) / 3
            values.append(0.5 * (1 - cosine) + 0.5 * smooth)
        expected.append(sum(values) / 5)
    assert cosine_smooth_l1(student, teacher).tolist() == pytest.approx(expected, rel=1e-12)


def test_the_gradient_by_finite_differences() -> None:
    student, teacher = draw(2, 4, 3).requires_grad_(), draw(2, 4, 3, seed=1)
    assert torch.autograd.gradcheck(lambda tokens: cosine_smooth_l1(tokens, teacher), (student,))


def test_half_precision_is_computed_in_single() -> None:
    student, teacher = draw(2, 4, 3).half() * 300, draw(2, 4, 3, seed=1).bfloat16()
    found = cosine_smooth_l1(student, teacher)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), cosine_smooth_l1(student.double(), teacher.double()))


def test_other_shapes_are_named() -> None:
    with pytest.raises(ValueError, match=r"\(2, 5, 8\) and teacher tokens \(2, 5, 4\) differ"):
        cosine_smooth_l1(draw(2, 5, 8), draw(2, 5, 4))


LOSSES = torch.tensor([[1.0, 4.0, 2.0], [5.0, 3.0, 1.0]])


def test_dropping_all_leaves_the_highest_of_each_image() -> None:
    assert float(drop_teachers(LOSSES, probability=1)) == (4 + 5) / 2


def test_dropping_none_is_the_mean_and_draws_nothing() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    assert float(drop_teachers(LOSSES, probability=0)) == pytest.approx(float(LOSSES.mean()))
    assert float(drop_teachers(LOSSES[:, :1], probability=0.5)) == 3
    assert torch.equal(torch.get_rng_state(), before)


def test_each_draw_is_a_mean_over_the_teachers_kept() -> None:
    """One image: its highest teacher always counts, so there are four outcomes, each a quarter of the draws."""
    torch.manual_seed(0)
    found = [round(float(drop_teachers(LOSSES[:1], probability=0.5)), 4) for _ in range(2000)]
    outcomes = {4.0, 2.5, 3.0, round(7 / 3, 4)}  # 4 alone, with 1, with 2, with both
    assert set(found) == outcomes
    for outcome in outcomes:
        # Five standard deviations of a binomial of 2000 and 1/4.
        assert abs(found.count(outcome) - 500) < 5 * math.sqrt(2000 * 3 / 16)


def test_the_probability_is_that_of_dropping() -> None:
    """Two teachers, 10,000 images: at .9 the lower one is kept in a tenth of them, where the mean is half of both."""
    losses = torch.tensor([[0.0, 1.0]]).expand(10_000, 2)
    torch.manual_seed(0)
    assert float(drop_teachers(losses, probability=0.9)) == pytest.approx(0.9 + 0.1 / 2, abs=0.01)


def test_the_draw_is_that_of_torch() -> None:
    losses = draw(64, 3)
    found: list[float] = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        found.append(float(drop_teachers(losses, probability=0.5)))
    assert found[0] == found[1] != found[2]


def test_dropped_teachers_get_no_gradient() -> None:
    losses = LOSSES.clone().requires_grad_()
    drop_teachers(losses, probability=1).backward()
    assert losses.grad is not None
    assert losses.grad.tolist() == [[0, 0.5, 0], [0.5, 0, 0]]
