"""SpectralKD's loss in closed form, in torch and in Triton, against torch's FFT in float64."""

import pytest
import torch
from kdcache_kernels import reference_spectral
from kdcache_kernels.spectral_align import spectral_align
from torch import Tensor

GRIDS = [(14, 14), (7, 7), (16, 12), (5, 9), (3, 1), (1, 2)]
# As wide, teacher pooled evenly and unevenly, student pooled evenly and unevenly.
CHANNELS = [(6, 6), (6, 12), (6, 18), (6, 16), (12, 6), (10, 4), (7, 5)]
# Caps of the relative error of a gradient: what rounding it costs, and a little more.
CAPS = {torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 3e-3}


def maps(shape: tuple[int, ...], dtype: torch.dtype = torch.float64, *, seed: int = 0, outlier: float = 1) -> Tensor:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.2
    values[:, shape[1] // 2] *= outlier
    return values.to(dtype)


def both(loss: object, student: Tensor, teacher: Tensor, upstream: float = 3.0) -> tuple[Tensor, Tensor]:
    """A loss and its gradient under an upstream gradient, float64 on the CPU."""
    student = student.detach().requires_grad_()
    value = loss(student, teacher)
    (value * upstream).backward()
    assert student.grad is not None and student.grad.dtype == student.dtype
    return value.detach().double().cpu(), student.grad.double().cpu()


def error(found: Tensor, exact: Tensor) -> float:
    return float((found - exact).norm() / exact.norm())


def token_major(each: Tensor, prefix: int = 1) -> Tensor:
    """The same map as a view of tokens (B, prefix + H W, C) behind a class token."""
    batch, channels, height, width = each.shape
    tokens = each.new_zeros(batch, prefix + height * width, channels)
    tokens[:, prefix:] = each.permute(0, 2, 3, 1).flatten(1, 2)
    return tokens[:, prefix:].unflatten(1, (height, width)).permute(0, 3, 1, 2)


@pytest.mark.parametrize("channels", CHANNELS, ids=str)
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_closed_form_is_the_fft(grid: tuple[int, int], channels: tuple[int, int]) -> None:
    student, teacher = maps((2, channels[0], *grid)), maps((2, channels[1], *grid), seed=1)
    exact = both(reference_spectral.spectral_align, student, teacher)
    for ours, theirs in zip(both(spectral_align, student, teacher), exact, strict=True):
        assert error(ours, theirs) < 1e-12


@pytest.mark.parametrize("channels", CHANNELS, ids=str)
@pytest.mark.parametrize(
    ("grid", "s_dtype", "t_dtype"),
    [
        ((3, 14), torch.float32, torch.float32),
        ((3, 8), torch.bfloat16, torch.float32),
        ((4, 7), torch.float16, torch.bfloat16),
    ],
    ids=str,
)
def test_no_further_from_float64_than_eager(
    form: str, grid: tuple[int, int], s_dtype: torch.dtype, t_dtype: torch.dtype, channels: tuple[int, int]
) -> None:
    student = maps((2, channels[0], *grid), s_dtype, outlier=50)
    teacher = maps((2, channels[1], *grid), t_dtype, seed=1)
    exact = both(reference_spectral.spectral_align, student.double(), teacher.double())
    eager = both(lambda s, t: reference_spectral.spectral_align(s.float(), t.float()), student, teacher)
    ours = both(spectral_align, student.to(form), teacher.to(form))
    for found, plain, true, cap in zip(ours, eager, exact, (1e-6, CAPS[s_dtype]), strict=True):
        assert error(found, true) <= min(cap, 1.5 * error(plain, true) + 3e-7)


@pytest.mark.parametrize("channels", [(16, 16), (6, 16), (10, 4)], ids=str)
def test_maps_are_read_where_they_lie(form: str, channels: tuple[int, int]) -> None:
    """Student and teacher each channel-major or token-major: the value, and a gradient laid out as the student."""
    student = maps((2, channels[0], 5, 6), torch.bfloat16).to(form)
    teacher = maps((2, channels[1], 5, 6), seed=1, dtype=torch.float16).to(form)
    exact = both(reference_spectral.spectral_align, student.double(), teacher.double())
    for ours in (student, token_major(student), token_major(student, 0)):
        for theirs in (teacher, token_major(teacher)):
            value, gradient = both(spectral_align, ours, theirs)
            assert error(value, exact[0]) < 1e-6 and error(gradient, exact[1]) < CAPS[torch.bfloat16]
    dense = token_major(student, 0).requires_grad_()
    spectral_align(dense, teacher).backward()
    assert dense.grad is not None and dense.grad.stride() == dense.stride()


def test_published_numbers(form: str) -> None:
    """A constant offset at 14 x 14 gives 0.875 of the mean squared error; pooling takes pair means."""
    student = maps((1, 4, 14, 14), torch.float32).to(form)
    torch.testing.assert_close(spectral_align(student, student + 2).cpu(), torch.tensor(0.875 * 4))
    teacher = maps((1, 8, 14, 14), torch.float32, seed=1).to(form)
    pairs = teacher.unflatten(1, (4, 2)).mean(2)
    torch.testing.assert_close(spectral_align(student, teacher), spectral_align(student, pairs))


def test_upstream_gradient_comes_before_rounding(form: str) -> None:
    """Float16 would lose a gradient of 1e-8 that a scaler's factor lifts."""
    student, teacher = maps((2, 8, 7, 8), torch.float16) / 1000, maps((2, 8, 7, 8), torch.float16, seed=1) / 1000
    exact = both(reference_spectral.spectral_align, student.double(), teacher.double(), 2.0**16)
    assert error(both(spectral_align, student.to(form), teacher.to(form), 2.0**16)[1], exact[1]) < 1e-3


def test_teacher_gets_no_gradient_and_nan_shows(form: str) -> None:
    student = maps((1, 4, 4, 4), torch.float32).to(form).requires_grad_()
    teacher = maps((1, 8, 4, 4), torch.float32, seed=1).to(form).requires_grad_()
    spectral_align(student, teacher).backward()
    assert teacher.grad is None and student.grad is not None
    with torch.no_grad():
        student[0, 1, 2, 3] = torch.nan
    assert spectral_align(student, teacher).isnan()


@pytest.mark.parametrize("channels", [(4, 8), (8, 4)], ids=str)
def test_autocast_rounds_nothing(form: str, channels: tuple[int, int]) -> None:
    student = maps((2, channels[0], 3, 8), torch.float32).to(form)
    teacher = maps((2, channels[1], 3, 8), torch.float32, seed=1).to(form)
    plain = both(spectral_align, student, teacher)
    with torch.autocast(student.device.type, dtype=torch.bfloat16):
        cast = both(spectral_align, student, teacher)
    assert torch.equal(plain[0], cast[0]) and torch.equal(plain[1], cast[1])


def test_runs_repeat_bitwise(form: str) -> None:
    student, teacher = maps((3, 10, 5, 6), torch.bfloat16).to(form), maps((3, 4, 5, 6), torch.bfloat16, seed=1).to(form)
    first, second = both(spectral_align, student, teacher), both(spectral_align, student, teacher)
    assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])


@pytest.mark.parametrize("channels", [(3, 3), (2, 5), (5, 3)], ids=str)
def test_gradients_by_finite_differences(channels: tuple[int, int]) -> None:
    student, teacher = maps((1, channels[0], 3, 4)).requires_grad_(), maps((1, channels[1], 3, 4), seed=1)
    assert torch.autograd.gradcheck(lambda s: spectral_align(s, teacher), (student,))


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # opcheck reads it of a copy
def test_operator_contract_and_compile() -> None:
    student, teacher = maps((2, 4, 3, 4)).requires_grad_(), maps((2, 8, 3, 4), seed=1)
    torch.library.opcheck(torch.ops.kd.spectral_align.default, (student, teacher))
    torch.library.opcheck(torch.ops.kd.spectral_align.default, (token_major(student).bfloat16(), teacher.float()))
    upstream = torch.tensor(2.0)
    torch.library.opcheck(
        torch.ops.kd.spectral_align_grad.default, (upstream, token_major(student.detach()).half(), teacher)
    )
    compiled = torch.compile(lambda s, t: spectral_align(torch.tanh(s), t) * 2, fullgraph=True, backend="aot_eager")
    found = both(compiled, student, teacher)
    for ours, plain in zip(
        found, both(lambda s, t: spectral_align(torch.tanh(s), t) * 2, student, teacher), strict=True
    ):
        torch.testing.assert_close(ours, plain)


@pytest.mark.parametrize("teacher", [(2, 4, 3, 5), (1, 4, 3, 4), (2, 0, 3, 4), (2, 4, 12)], ids=str)
def test_other_shapes_are_refused(teacher: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="teacher_map must be"):
        spectral_align(torch.zeros(2, 4, 3, 4), torch.zeros(teacher))


def test_empty_maps_and_integers_are_refused() -> None:
    with pytest.raises(ValueError, match="student_map must be"):
        spectral_align(torch.zeros(0, 4, 3, 4), torch.zeros(0, 4, 3, 4))
    with pytest.raises(ValueError, match="int8"):
        spectral_align(torch.zeros(2, 4, 3, 4), torch.zeros(2, 4, 3, 4, dtype=torch.int8))
