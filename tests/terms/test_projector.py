"""ProjectorKD's term: definition, what is trained and what is not, batch statistics, training."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from kdcache.terms.projector import NormalizedProjection, Projector
from tests.terms import support
from tests.terms.support import apply, draw, loss_of, make_modules, pack


def normalized(values: Tensor) -> Tensor:
    """Each channel to mean 0 and variance 1 over all images and tokens, with torch's eps."""
    rows = values.reshape(-1, values.shape[-1])
    return (rows - rows.mean(0)) / ((rows - rows.mean(0)).square().mean(0) + 1e-5).sqrt()


@pytest.mark.parametrize("widths", [(12, 24), (24, 24), (30, 24)], ids=str)
def test_at_the_start_it_is_the_squared_error_of_normalized_tokens(widths: tuple[int, int]) -> None:
    student, teacher = draw(4, 16, widths[0]), draw(4, 16, widths[1], seed=1)
    targets = pack(teacher, (4, 4))
    modules = make_modules(Projector(), [student], [targets])
    projection = modules[0].adapter.projection
    projected = student @ projection.weight.T + projection.bias
    expected = (normalized(projected) - normalized(teacher)).square().mean().detach()
    found = apply(Projector(), [student], [targets], modules).detach()
    assert float(found) == pytest.approx(float(expected), rel=1e-5)


def test_both_sides_have_a_scale_and_an_offset() -> None:
    student, teacher = draw(4, 16, 12), draw(4, 16, 24, seed=1)
    adapter = NormalizedProjection(12, 24, teacher_affine=True)
    with torch.no_grad():
        for number, norm in enumerate((adapter.student_norm, adapter.teacher_norm)):
            norm.weight.copy_(draw(24, seed=2 + number))
            norm.bias.copy_(draw(24, seed=4 + number))
    projected = student @ adapter.projection.weight.T + adapter.projection.bias
    mine = normalized(projected) * draw(24, seed=2) + draw(24, seed=4)
    theirs = normalized(teacher) * draw(24, seed=3) + draw(24, seed=5)
    expected = (mine - theirs).square().mean().detach()
    assert float(adapter(student, teacher).detach()) == pytest.approx(float(expected), rel=1e-5)


def test_the_gradient_by_finite_differences() -> None:
    adapter = NormalizedProjection(3, 5, teacher_affine=True).double()
    student = draw(2, 4, 3, dtype=torch.float64).requires_grad_()
    teacher = draw(2, 4, 5, seed=1, dtype=torch.float64)
    parameters = tuple(adapter.parameters())
    assert len(parameters) == 6
    assert torch.autograd.gradcheck(lambda *inputs: adapter(inputs[0], teacher), (student, *parameters))


def test_scale_and_offset_of_a_channel_do_not_matter() -> None:
    student, teacher = draw(4, 16, 12), draw(4, 16, 24, seed=1)
    other = teacher * (draw(24, seed=2).abs() + 0.5) + 5 * draw(24, seed=3)
    found = [float(loss_of(Projector(), student, pack(each, (4, 4)))) for each in (teacher, other)]
    assert found[0] == pytest.approx(found[1], rel=1e-3)


def test_the_released_variant_trains_the_student_only() -> None:
    """The same value as the trained one's at the start, and a gradient of the tokens alone."""
    student, targets = draw(4, 16, 12).requires_grad_(), pack(draw(4, 16, 24, seed=1), (4, 4))
    released, trained = Projector(released=True), Projector()
    modules = make_modules(released, [student], [targets])
    loss = apply(released, [student], [targets], modules)
    torch.testing.assert_close(loss.detach(), loss_of(trained, student, targets))
    loss.backward()
    assert student.grad is not None and student.grad.abs().sum() > 0
    assert [parameter.requires_grad for parameter in modules.parameters()] == [False] * 6
    assert all(each.requires_grad for each in make_modules(trained, [student], [targets]).parameters())


@pytest.mark.parametrize(("teacher_affine", "low", "high"), [(True, 0.0, 0.05), (False, 0.9, 1.1)])
def test_two_trained_scales_shrink_the_loss_of_unrelated_tokens(teacher_affine: bool, low: float, high: float) -> None:
    """Why teacher_affine=false exists: no student moves here, and its tokens say nothing of the teacher's."""
    student, targets = draw(16, 16, 4), pack(draw(16, 16, 24, seed=1), (4, 4))
    term = Projector(teacher_affine=teacher_affine)
    modules = make_modules(term, [student], [targets])
    optimizer = torch.optim.Adam(modules.parameters(), lr=0.05)
    for _ in range(60):
        optimizer.zero_grad()
        loss = apply(term, [student], [targets], modules)
        loss.backward()
        optimizer.step()
    assert low <= float(loss.detach()) <= high


def test_statistics_are_those_of_the_batch_in_memory() -> None:
    """The exception to accumulation: halves have means of their own."""
    student, targets = draw(4, 16, 12), pack(draw(4, 16, 24, seed=1), (4, 4))
    modules = make_modules(Projector(), [student], [targets])
    whole = float(apply(Projector(), [student], [targets], modules).detach())
    halves = [
        float(apply(Projector(), [student[part]], [targets.rows(part)], modules).detach())
        for part in (slice(2), slice(2, 4))
    ]
    assert abs(sum(halves) / 2 - whole) > 1e-3
    modules.eval()
    assert float(apply(Projector(), [student], [targets], modules).detach()) == whole


def test_packed_targets() -> None:
    support.check_packed_targets(Projector(), draw(4, 16, 12), draw(4, 16, 24, seed=1), (4, 4))


def test_bf16_autocast() -> None:
    support.check_autocast(Projector(), draw(4, 16, 12), draw(4, 16, 24, seed=1), (4, 4), rtol=1e-2)


@pytest.mark.parametrize("released", [False, True])
@pytest.mark.slow
def test_it_falls_in_training(tiny_root: Path, tmp_path: Path, released: bool) -> None:
    term = Projector(weight=1.0, teacher=("blocks.1/patch:int8",), released=released)
    support.check_training(tiny_root, tmp_path / "run", term, factor=0.8)
