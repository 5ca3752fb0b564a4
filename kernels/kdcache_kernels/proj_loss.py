"""Feature losses of projected student tokens against targets as a cache stores them."""

import torch
from torch import Tensor

from kdcache_kernels.projection_operators import loss


def proj_mse(
    student: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    *,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    mask: Tensor | None = None,
    basis: Tensor | None = None,
    mean: Tensor | None = None,
) -> Tensor:
    """Mean squared error between projected student tokens and targets.

    Nothing of size N x Dt is kept. Plain torch projects a chunk of tokens at a time and forms all gradients with the
    loss; without grad mode, or inputs that require a gradient, only the loss. Kernels (see `explain_backend`) form no
    projection for 16-bit students and teachers at least 1.5 times as wide. There the loss is a difference of large
    sums: its relative error is about 2e-6 |T|^2 / |R|^2, 2 % where the residual R is 1 % of the targets T, as much as
    rounding the weight to bfloat16 costs (measured on an H100). Products use the weight rounded to the student's dtype;
    under autocast the student is cast as a linear layer would cast it. Gradients go to student, weight and bias, once:
    a second derivative is refused.

    Args:
        student: (N, Ds) or (B, L, Ds), float64, float32 or 16-bit; kernels read a slice such as ``tokens[:, 1:]`` in
            place, plain torch copies it.
        weight: (Dt, Ds).
        bias: (Dt,) or None.
        targets: (N, Dt) or (B, L, Dt) as stored: float, int8 or fp8; a slice is copied. The target is
            ``scale * targets + shift``.
        scale, shift: One number a token, (N,) or (B, L), or None. `layer_norm_affine` gives those of a teacher whose
            tokens are to be layer-normalised.
        mask: Weights of tokens, bool or >= 0, (N,) or (B, L); the loss is the mean over what they select, 0 if nothing.
            Tokens of weight 0 must be finite all the same. A bool mask is the faster one: with weights the residual is
            formed, because sums of weighed 16-bit tokens would round every weight.
        basis, mean: Principal components of the teacher, (R, Dt) with orthonormal rows and (Dt,); targets are then
            coefficients (..., R), the target is ``targets @ basis + mean``, and no work of width Dt is done per token.

    Returns: scalar float32 (float64 for a float64 student), the mean over tokens and channels.
    Raises: ValueError for shapes or dtypes that do not fit.
    """
    if mean is not None:
        bias = -mean if bias is None else bias - mean
    return _loss(student, weight, bias, targets, (scale, shift, mask), basis, "mse", 1.0)


def proj_smooth_l1(
    student: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    *,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    mask: Tensor | None = None,
    beta: float = 1.0,
) -> Tensor:
    """Smooth L1, quadratic below `beta` > 0; arguments as in `proj_mse`. The residual exists a block at a time.

    Coefficients of principal components have no form of their own here: decode them first, with `from_components`.
    """
    if not beta > 0:
        raise ValueError(f"beta must be > 0, got {beta}")
    return _loss(student, weight, bias, targets, (scale, shift, mask), None, "smooth_l1", beta)


def proj_cosine(
    student: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    *,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """One minus the cosine of projected student tokens and targets, mean over tokens; arguments as in `proj_mse`.

    Coefficients of principal components have no form of their own here: decode them first, with `from_components`.
    """
    return _loss(student, weight, bias, targets, (scale, shift, mask), None, "cosine", 1.0)


def from_components(
    coefficients: Tensor, basis: Tensor, mean: Tensor | None = None, *, dtype: torch.dtype = torch.bfloat16
) -> Tensor:
    """Targets (..., Dt) from coefficients (..., R) of components (R, Dt) and their mean (Dt,), rounded to a dtype."""
    decoded = coefficients.to(basis.dtype) @ basis
    return (decoded if mean is None else decoded + mean).to(dtype)


def _loss(
    student: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    rows: tuple[Tensor | None, ...],
    basis: Tensor | None,
    kind: str,
    beta: float,
) -> Tensor:
    _check_shapes(student, weight, bias, targets, rows, basis)
    device = student.device.type
    if torch.is_autocast_enabled(device) and student.dtype != torch.float64:
        student = student.to(torch.get_autocast_dtype(device))
    # A stride of the channels is the one layout that no form reads; a copy is what a linear layer would make too.
    student = student if student.stride(-1) == 1 else student.contiguous()
    # Kernels read bias, scale, shift and mask one after another, whatever their strides were.
    bias = weight.new_zeros(weight.shape[0]) if bias is None else bias.contiguous()
    dtype = torch.float64 if student.dtype == torch.float64 else torch.float32
    scale, shift = (None if each is None else each.detach().reshape(-1).to(dtype).contiguous() for each in rows[:2])
    mask = None if rows[2] is None else rows[2].detach().reshape(-1).contiguous()
    if mask is not None and mask.dtype != torch.bool:
        mask = mask.to(dtype)
        # The loss does not depend on the masks' scale; 16-bit products of tiny ones would.
        mask = mask / mask.amax().clamp_min(1e-30)
    values = targets.detach().reshape(-1, targets.shape[-1]).contiguous()
    for_student, for_weight, for_bias = (
        torch.is_grad_enabled() and each.requires_grad for each in (student, weight, bias)
    )
    wanted = for_student, for_weight or for_bias
    return loss(student, weight, bias, values, scale, shift, mask, basis, kind, beta, *wanted)


def _check_shapes(
    student: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    rows: tuple[Tensor | None, ...],
    basis: Tensor | None,
) -> None:
    if student.dim() not in (2, 3) or student.shape[:-1].numel() == 0:
        raise ValueError(f"student must be (N, Ds) or (B, L, Ds) with at least one token, got {tuple(student.shape)}")
    if not student.is_floating_point() or student.dtype.itemsize == 1:
        raise ValueError(f"student must be of a float dtype, got {student.dtype}")
    if weight.dim() != 2 or weight.shape[1] != student.shape[-1]:
        raise ValueError(f"weight must be (Dt, {student.shape[-1]}), got {tuple(weight.shape)}")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"bias must be ({weight.shape[0]},), got {tuple(bias.shape)}")
    if basis is not None and (basis.dim() != 2 or basis.shape[1] != weight.shape[0]):
        raise ValueError(f"basis must be (R, {weight.shape[0]}), got {tuple(basis.shape)}")
    width = weight.shape[0] if basis is None else basis.shape[0]
    wanted = torch.Size((*student.shape[:-1], width))
    if targets.shape != wanted:
        raise ValueError(f"targets must have shape {tuple(wanted)}, got {tuple(targets.shape)}")
    for name, values in zip(("scale", "shift", "mask"), rows, strict=True):
        if values is not None and values.shape != student.shape[:-1]:
            raise ValueError(f"{name} must have shape {tuple(student.shape[:-1])}, got {tuple(values.shape)}")
