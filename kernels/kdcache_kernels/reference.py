"""Every operation of this package in plain torch: what the kernels must equal, and what runs where they cannot."""

import torch
import torch.nn.functional as F
from torch import Tensor


def dequantize(targets: Tensor, scale: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
    """Targets as stored to float32: ``scale * targets + shift`` with one scale and shift per token.

    Args:
        targets: (..., Dt) of any real dtype.
        scale: (...) or None for 1.
        shift: (...) or None for 0.
    """
    values = targets.float()
    if scale is not None:
        values = values * scale.float().unsqueeze(-1)
    if shift is not None:
        values = values + shift.float().unsqueeze(-1)
    return values


def proj_mse(
    student: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    *,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
) -> Tensor:
    """Mean squared error between projected student tokens and targets.

    Args:
        student: (N, Ds) or (B, L, Ds).
        weight: (Dt, Ds).
        bias: (Dt,) or None.
        targets: (N, Dt) or (B, L, Dt) as stored; decoded as in `dequantize`.
        scale, shift: Per token, or None.

    Returns: scalar float32, the mean over all elements.
    """
    return F.mse_loss(_project(student, weight, bias), _aligned(student, weight, targets, scale, shift))


def proj_smooth_l1(
    student: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    *,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    beta: float = 1.0,
) -> Tensor:
    """Smooth L1 between projected student tokens and targets, quadratic below `beta`; arguments as in `proj_mse`."""
    projected = _project(student, weight, bias)
    return F.smooth_l1_loss(projected, _aligned(student, weight, targets, scale, shift), beta=beta)


def proj_cosine(
    student: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    *,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
) -> Tensor:
    """One minus the cosine of projected student tokens and targets, mean over tokens; arguments as in `proj_mse`."""
    projected = _project(student, weight, bias)
    cosine = F.cosine_similarity(projected, _aligned(student, weight, targets, scale, shift), dim=-1)
    return (1 - cosine).mean()


def _project(student: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return F.linear(student, weight, bias).float()


def _aligned(student: Tensor, weight: Tensor, targets: Tensor, scale: Tensor | None, shift: Tensor | None) -> Tensor:
    wanted = torch.Size((*student.shape[:-1], weight.shape[0]))
    if targets.shape != wanted:
        raise ValueError(f"targets must have shape {tuple(wanted)}, got {tuple(targets.shape)}")
    return dequantize(targets, scale, shift)
