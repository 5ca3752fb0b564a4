"""Inputs of the projected losses, and how far a result is from float64 beside what eager torch loses."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from kdcache_kernels import proj_cosine, proj_mse, proj_smooth_l1, reference
from torch import Tensor

LOSSES: dict[str, Callable[..., Tensor]] = {"mse": proj_mse, "smooth_l1": proj_smooth_l1, "cosine": proj_cosine}


@dataclass(frozen=True)
class Inputs:
    """One problem; `targets` as stored, `decoded` what they stand for in float64."""

    student: Tensor
    weight: Tensor
    bias: Tensor
    targets: Tensor
    decoded: Tensor
    scale: Tensor | None = None
    shift: Tensor | None = None


def make(
    shape: tuple[int, ...], width: int, dtype: torch.dtype, *, residual: float = 0.5, outliers: bool = False
) -> Inputs:
    """Student tokens with targets that a projection of them fits up to a relative residual.

    Args:
        shape: Of the student, channels last.
        width: Dt.
        dtype: Of student and targets.
        residual: Norm of what the projection misses, relative to the targets'.
        outliers: Whether one channel of student and teacher is 50 times as large.
    """
    generator = torch.Generator().manual_seed(0)

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=generator)

    student = normal(*shape)
    weight, bias = normal(width, shape[-1]) / shape[-1] ** 0.5, 0.1 * normal(width)
    if outliers:
        student[..., 1] *= 50
        weight[:, 1] /= 50
        weight[3] *= 50
    student, rounded = student.to(dtype), weight.to(dtype).float()
    fitted = F.linear(student.float(), rounded, bias)
    noise = normal(*shape[:-1], width)
    noise *= residual * fitted.norm(dim=-1, keepdim=True) / noise.norm(dim=-1, keepdim=True)
    targets = (fitted + noise).to(dtype)
    return Inputs(student, weight, bias, targets, targets.double())


def exact(kind: str, student: Tensor, weight: Tensor, bias: Tensor, decoded: Tensor) -> Tensor:
    """The loss as its definition reads, in whatever types come in."""
    projected = F.linear(student, weight, bias)
    projected = projected.float() if projected.dtype != torch.float64 else projected
    return reference.feature_loss(kind, projected, decoded.to(projected.dtype))


def gradients(loss: Callable[..., Tensor], *inputs: Tensor) -> tuple[Tensor, ...]:
    """Loss and gradients for all inputs, the upstream gradient being 3."""
    leaves = [each.detach().clone().requires_grad_() for each in inputs]
    value = loss(*leaves)
    (3 * value).backward()
    found = [each.grad for each in leaves]
    assert all(each is not None for each in found)
    return (value.detach(), *(each for each in found if each is not None))


def three_ways(kind: str, inputs: Inputs, device: str) -> dict[str, tuple[float, float]]:
    """Relative errors of ours and of eager autocast against float64: loss, student, weight, bias."""
    student, weight, bias = inputs.student, inputs.weight, inputs.bias
    truth = gradients(
        lambda *each: exact(kind, *each, inputs.decoded),
        student.double(),
        weight.to(student.dtype).double(),
        bias.double(),
    )

    def eager(*each: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=student.dtype, enabled=student.dtype.itemsize == 2):
            return exact(kind, *each, inputs.decoded)

    def ours(*each: Tensor) -> Tensor:
        rows = {
            name: None if row is None else row.to(device)
            for name, row in (("scale", inputs.scale), ("shift", inputs.shift))
        }
        return LOSSES[kind](*each, inputs.targets.to(device), **rows)

    found = gradients(ours, *(each.to(device) for each in (student, weight, bias)))
    torch_found = gradients(eager, student, weight, bias)
    names = ("loss", "student", "weight", "bias")
    return {
        name: (relative_error(mine, right), relative_error(theirs, right))
        for name, mine, theirs, right in zip(names, found, torch_found, truth, strict=True)
    }


def relative_error(found: Tensor, wanted: Tensor) -> float:
    """Norm of the difference over the norm; NaN where there is one."""
    found, wanted = found.double().cpu(), wanted.double().cpu()
    return float((found - wanted).norm() / wanted.norm())
