"""SpectralKD's term: the FFT definition, grids, widths, packed targets, training."""

import functools
from pathlib import Path

import pytest
import torch
from torch import Tensor

from kdcache.losses import pool_channels
from kdcache.stream.targets import Payload
from kdcache.terms.spectral import Spectral
from tests.terms import support
from tests.terms.support import draw, loss_of, make_column, pack


def fft_loss(student: Tensor, teacher: Tensor, grid: tuple[int, int]) -> Tensor:
    """The published form: channels of the wider side pooled, a real FFT over the grid, MSE of both parts."""
    width = min(student.shape[-1], teacher.shape[-1])
    spectra = [
        torch.fft.rfft2(pool_channels(each, width).unflatten(1, grid), dim=(1, 2), norm="ortho")
        for each in (student, teacher)
    ]
    return torch.view_as_real(spectra[0] - spectra[1]).square().mean()


@pytest.mark.parametrize("widths", [(8, 8), (8, 16), (6, 16), (16, 6)], ids=str)
@pytest.mark.parametrize("side", [7, 14, 28, 56])
def test_the_closed_form_is_the_fft(side: int, widths: tuple[int, int]) -> None:
    student, teacher = draw(2, side * side, widths[0]), draw(2, side * side, widths[1], seed=1)
    found = loss_of(Spectral(), student, pack(teacher, (side, side)))
    expected = fft_loss(student, teacher, (side, side))
    assert float(found) == pytest.approx(float(expected), rel=1e-6)


def test_rows_and_columns_are_not_exchanged() -> None:
    """The real FFT halves the columns: a map of 3 x 4 and its transpose differ."""
    student, teacher = draw(2, 12, 4), draw(2, 12, 4, seed=1)
    found = [float(loss_of(Spectral(), student, pack(teacher, grid))) for grid in ((3, 4), (4, 3))]
    assert found == pytest.approx([float(fft_loss(student, teacher, grid)) for grid in ((3, 4), (4, 3))])
    assert found[0] != pytest.approx(found[1], rel=1e-3)


def test_a_constant_offset_counts_seven_eighths() -> None:
    student = draw(2, 196, 4)
    found = loss_of(Spectral(), student, pack(student + 2, (14, 14)))
    assert float(found) == pytest.approx(0.875 * 4, rel=1e-6)


def test_the_gradient_by_finite_differences() -> None:
    term, column = Spectral(), make_column((12, 6), (3, 4))
    student = draw(2, 12, 4, dtype=torch.float64).requires_grad_()
    targets = Payload(draw(2, 12, 6, seed=1, dtype=torch.float64), None, None)
    adapter = term.make_adapter(support.TokenShape(12, 4, (3, 4)), column)
    compare = functools.partial(term.compare, teacher=targets, adapter=adapter)
    assert torch.autograd.gradcheck(lambda tokens: compare(tokens), (student,))


@pytest.mark.parametrize("resize", ["student", "teacher"])
def test_grids_that_differ_meet_on_the_one_that_is_kept(resize: str) -> None:
    """A constant map stays constant whichever side is resized, so the value is that of an offset."""
    student, teacher = torch.full((2, 4, 3), 1.0), torch.full((2, 16, 3), 3.0)
    found = loss_of(Spectral(resize=resize), student, pack(teacher, (4, 4)), grids=[(2, 2)])
    side = 4 if resize == "student" else 2
    offset = fft_loss(torch.zeros(1, side * side, 3), torch.full((1, side * side, 3), 2.0), (side, side))
    assert float(found) == pytest.approx(float(offset), rel=1e-6)


def test_packed_targets() -> None:
    support.check_packed_targets(Spectral(), draw(4, 16, 12), draw(4, 16, 24, seed=1), (4, 4))


def test_bf16_autocast() -> None:
    support.check_autocast(Spectral(), draw(4, 16, 12), draw(4, 16, 24, seed=1), (4, 4), rtol=1e-2)


def test_accumulation() -> None:
    support.check_accumulation(Spectral(), draw(4, 16, 12), draw(4, 16, 24, seed=1), (4, 4))


def test_nothing_is_trained_beside_the_student() -> None:
    student, targets = draw(2, 16, 12), pack(draw(2, 16, 24, seed=1), (4, 4))
    modules = support.make_modules(Spectral(), [student], [targets])
    assert list(modules.parameters()) == []


@pytest.mark.parametrize("tap", ["blocks.-1/prefix", "head/embedding"])
def test_tokens_off_the_grid_are_refused(tap: str) -> None:
    with pytest.raises(ValueError, match=f"the term spectral compares maps of patch tokens, got teacher={tap}"):
        Spectral(teacher=("blocks.0/patch", tap), student_block=())


@pytest.mark.parametrize(
    ("own", "other", "message"),
    [(None, (4, 4), "the student's tokens have no grid"), ((4, 4), (), r"a:blocks.1/patch \(fp32\) has no grid")],
)
def test_an_unknown_grid_is_refused(own: tuple[int, int] | None, other: tuple[int, ...], message: str) -> None:
    student, targets = draw(2, 16, 12), pack(draw(2, 16, 24, seed=1), other)
    with pytest.raises(ValueError, match=message):
        loss_of(Spectral(), student, targets, grids=[own])


@pytest.mark.slow
def test_it_falls_in_training(tiny_root: Path, tmp_path: Path) -> None:
    term = Spectral(weight=1.0, teacher=("blocks.1/patch:int8",))
    support.check_training(tiny_root, tmp_path / "run", term, factor=0.7)
