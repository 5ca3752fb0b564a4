"""Feature losses through the residual itself, a block of tokens at a time: for losses that are not quadratic in the
projection, for float32 students, and where the teacher is hardly wider than the student."""

import torch
import torch.nn.functional as F
from torch import Tensor

from kdcache_kernels.projection_problem import Problem
from kdcache_kernels.reference import dequantize


def loss_and_parameter_gradients(problem: Problem, kind: str, beta: float) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, and its gradients for weight (Dt, Ds) and bias; the projection is formed for one block of tokens.

    Args:
        kind: ``mse`` or ``smooth_l1``.
        beta: Where smooth L1 turns from quadratic to linear.
    """
    dtype = problem.accumulator
    weight, bias = problem.rounded_weight.to(dtype), problem.bias.to(dtype)
    total = torch.zeros((), dtype=torch.float64, device=weight.device)
    grad_weight, grad_bias = weight.new_zeros(weight.shape), torch.zeros_like(bias)
    for _, student, targets, mask in problem.chunks():
        tokens = student.to(dtype)
        residual = tokens @ weight.t() + bias - targets.to(dtype)
        values, slopes = value_and_slope(residual, kind, beta)
        if mask is not None:
            values, slopes = values * mask, slopes * mask
        total += values.sum(dtype=torch.float64)
        grad_weight += slopes.t() @ tokens
        grad_bias += slopes.sum(0)
    per_element = problem.inverse_count() / weight.shape[0]
    return total.to(dtype) * per_element, grad_weight * per_element, grad_bias * per_element


def student_gradient(upstream: Tensor, problem: Problem, kind: str, beta: float) -> Tensor:
    """Upstream times the gradient for the student tokens, (N, Ds) in their dtype."""
    dtype = problem.accumulator
    weight, bias = problem.rounded_weight.to(dtype), problem.bias.to(dtype)
    factor = upstream.to(dtype) * problem.inverse_count() / weight.shape[0]
    out = torch.empty(problem.num_tokens, weight.shape[1], dtype=problem.student.dtype, device=weight.device)
    for part, student, targets, mask in problem.chunks():
        residual = student.to(dtype) @ weight.t() + bias - targets.to(dtype)
        _, slopes = value_and_slope(residual, kind, beta)
        gradient = (slopes if mask is None else slopes * mask) @ weight
        out[part] = (gradient * factor).to(out.dtype)
    return out


def value_and_slope(residual: Tensor, kind: str, beta: float) -> tuple[Tensor, Tensor]:
    """The loss of each element and its derivative."""
    if kind == "mse":
        return residual.square(), 2 * residual
    size = residual.abs()
    is_small = size < beta
    values = torch.where(is_small, residual.square() * (0.5 / beta), size - 0.5 * beta)
    return values, torch.where(is_small, residual / beta, residual.sign())


def eager_loss(problem: Problem, kind: str, beta: float) -> Tensor:
    """The loss as differentiable torch operations over all tokens: what a GPU without kernels runs fastest.

    It forms the projection and its residual as a whole, as eager training would, and costs what that costs: forming
    them twice, a block at a time, took 2 to 5 times as long on an H100.
    """
    dtype = problem.accumulator
    student = problem.student.reshape(-1, problem.student.shape[-1])
    projected = F.linear(student, problem.weight.to(student.dtype), problem.bias.to(student.dtype)).to(dtype)
    targets = dequantize(problem.values, problem.scale, problem.shift, dtype=dtype)
    if problem.mask is None:
        if kind == "mse":
            return F.mse_loss(projected, targets)
        if kind == "smooth_l1":
            return F.smooth_l1_loss(projected, targets, beta=beta)
        return (1 - F.cosine_similarity(projected, targets, dim=-1)).mean()
    if kind == "cosine":
        each = 1 - F.cosine_similarity(projected, targets, dim=-1)
    elif kind == "mse":
        each = F.mse_loss(projected, targets, reduction="none").mean(-1)
    else:
        each = F.smooth_l1_loss(projected, targets, beta=beta, reduction="none").mean(-1)
    return (each * problem.mask).sum() * problem.inverse_count()
