"""Mean squared error of a projection without ever forming it: sums over tokens first, small matrices afterwards.

With P = S W^T + b, R = P - T and weights of tokens m, the loss and its gradients depend on the tokens only through
S^T m S, T^T m S, and column sums, because sum |R|^2 is a quadratic form in W and b. Nothing of size N x Dt exists.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from kdcache_kernels.products import parts_for, token_product, transposed_product
from kdcache_kernels.projection_problem import Problem


@dataclass(frozen=True)
class GramSums:
    """What the loss needs to know of all tokens; m stands for their weights.

    Args:
        ss: (Ds, Ds), sum of m s s^T.
        ts: (Dt, Ds), sum of m t s^T; (R, Ds) of coefficients.
        s_sum: (Ds,), sum of m s.
        t_sum: (Dt,) or (R,), sum of m t.
        t_square: scalar, sum of m |t|^2.
        count: scalar, sum of m.
    """

    ss: Tensor
    ts: Tensor
    s_sum: Tensor
    t_sum: Tensor
    t_square: Tensor
    count: Tensor


def token_sums(problem: Problem) -> GramSums:
    """One sweep over the tokens with library products."""
    width, depth = problem.student.shape[-1], problem.values.shape[1]
    # Partial sums in float32, their sum in float64, where no setting of float32 products reaches the small algebra.
    dtype = torch.float64

    def zeros(*shape: int) -> Tensor:
        return torch.zeros(shape, dtype=dtype, device=problem.values.device)

    ss, ts, s_sum, t_sum, square = zeros(width, width), zeros(depth, width), zeros(width), zeros(depth), zeros()
    for _, student, targets, mask in problem.chunks():
        # Weights of tokens are float32 and take the products out of 16 bits.
        weighed, weighed_targets = (student, targets) if mask is None else (student * mask, targets * mask)
        ss += transposed_product(weighed, student)
        ts += transposed_product(weighed_targets, student)
        s_sum += weighed.sum(0, dtype=problem.accumulator)
        t_sum += weighed_targets.sum(0, dtype=problem.accumulator)
        square += (weighed_targets.to(problem.accumulator) * targets).sum(dtype=dtype)
    return GramSums(ss, ts, s_sum, t_sum, square, problem.count().to(dtype))


def finish(sums: GramSums, problem: Problem) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, and its gradients for the weight (Dt, Ds) and the bias, from the sums alone."""
    dtype = sums.ss.dtype
    weight, bias = problem.rounded_weight.to(dtype), problem.bias.to(dtype)
    ts, t_sum = sums.ts, sums.t_sum
    if problem.basis is not None:
        basis = problem.basis.to(dtype)
        ts, t_sum = basis.t() @ ts, basis.t() @ t_sum
    per_element = problem.inverse_count().to(dtype) / weight.shape[0]
    from_student, from_sum = weight @ sums.ss, weight @ sums.s_sum
    loss = (
        (weight * (from_student - 2 * ts)).sum()
        + sums.t_square
        + 2 * (bias * (from_sum - t_sum)).sum()
        + sums.count * bias.square().sum()
    )
    grad_weight = from_student + torch.outer(bias, sums.s_sum) - ts
    grad_bias = from_sum + sums.count * bias - t_sum
    return loss * per_element, grad_weight * (2 * per_element), grad_bias * (2 * per_element)


def student_gradient(upstream: Tensor, problem: Problem, ca: Tensor | None = None, cb: Tensor | None = None) -> Tensor:
    """Upstream times the gradient for the student tokens, (N, Ds) in their dtype.

    Args:
        upstream: scalar.
        ca, cb: (N,) factors of the projected token and of the target in the loss's gradient for the projection; None
            for those of the mean squared error. They carry the tokens' weights.
    """
    dtype = problem.accumulator
    weight, bias = problem.rounded_weight.double(), problem.bias.double()
    to_student = weight if problem.basis is None else problem.basis.double() @ weight
    square, to_student = (parts_for(problem.student, each, dtype) for each in (weight.t() @ weight, to_student))
    constant = (weight.t() @ bias).to(dtype)
    factor = upstream.to(dtype) * problem.inverse_count().to(dtype)
    if ca is None or cb is None:
        factor = factor * 2 / weight.shape[0]
    out = torch.empty(problem.num_tokens, weight.shape[1], dtype=problem.student.dtype, device=problem.student.device)
    for part, student, targets, mask in problem.chunks():
        projected = token_product(student, square) + constant
        stored = token_product(targets, to_student)
        if ca is None or cb is None:
            gradient = projected - stored if mask is None else (projected - stored) * mask
        else:
            gradient = ca[part, None] * projected + cb[part, None] * stored
        out[part] = (gradient * factor).to(out.dtype)
    return out
