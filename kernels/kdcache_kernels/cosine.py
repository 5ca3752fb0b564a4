"""The cosine loss: one sweep gives each token's cosine and two factors, from which all gradients follow.

With c the cosine of p and t, the gradient of 1 - c for p is (c / |p|^2) p - (1 / (|p| |t|)) t: a factor `ca` for the
projected token and a factor `cb` for the target.
"""

import torch
from torch import Tensor

from kdcache_kernels.projection_problem import Problem

# torch.nn.functional.cosine_similarity's: norms below it count as this.
EPS = 1e-8


def token_factors(problem: Problem) -> tuple[Tensor, Tensor, Tensor]:
    """Weighed loss of each token, and the factors ca and cb, each (N,)."""
    dtype = problem.accumulator
    weight, bias = problem.rounded_weight.to(dtype), problem.bias.to(dtype)
    rows: list[tuple[Tensor, Tensor, Tensor]] = []
    for _, student, targets, mask in problem.chunks():
        projected, wanted = student.to(dtype) @ weight.t() + bias, targets.to(dtype)
        rows.append(
            factors_from_products(
                projected.square().sum(1),
                (projected * wanted).sum(1),
                wanted.square().sum(1),
                None if mask is None else mask.squeeze(1).to(dtype),
            )
        )
    losses, ca, cb = (torch.cat(parts) for parts in zip(*rows, strict=True))
    return losses, ca, cb


def factors_from_products(pp: Tensor, pt: Tensor, tt: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Loss and factors from |p|^2, <p, t> and |t|^2 of each token."""
    p_norm, t_norm = pp.sqrt().clamp_min(EPS), tt.sqrt().clamp_min(EPS)
    cosine = pt / (p_norm * t_norm)
    # A norm below EPS is a constant to autograd, so the term that comes from its derivative is missing there.
    ca = torch.where(pp.sqrt() > EPS, cosine / p_norm.square(), torch.zeros_like(pp))
    cb = -1 / (p_norm * t_norm)
    losses = 1 - cosine
    return (losses, ca, cb) if mask is None else (losses * mask, ca * mask, cb * mask)


def parameter_gradients(problem: Problem, ca: Tensor, cb: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of the mean loss for weight and bias, from the factors.

    Through the slope ``ca p + cb t`` of a block of tokens: its two parts cancel where the student fits, and sums of
    them would not.
    """
    dtype = problem.accumulator
    weight, bias = problem.rounded_weight.to(dtype), problem.bias.to(dtype)
    grad_weight, grad_bias = weight.new_zeros(weight.shape), torch.zeros_like(bias)
    for part, student, targets, _ in problem.chunks():
        tokens = student.to(dtype)
        slopes = ca[part, None] * (tokens @ weight.t() + bias) + cb[part, None] * targets.to(dtype)
        grad_weight += slopes.t() @ tokens
        grad_bias += slopes.sum(0)
    per_token = problem.inverse_count()
    return grad_weight * per_token, grad_bias * per_token
