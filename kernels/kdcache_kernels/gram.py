"""Mean squared error of a projection without forming it: sums over tokens, then small matrices.

With P = S W^T + b, R = P - T and weights of tokens m, the loss and its gradients depend on the tokens only through
S^T m S, T^T m S, and column sums, because sum |R|^2 is a quadratic form in W and b. Nothing of size N x Dt exists.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from kdcache_kernels.products import own_product, parts_for, token_product, transposed_product
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
    parts = [_chunk_sums(problem, *chunk) for chunk in problem.chunks()]
    # Partial sums in float32, their sum in float64, where no setting of float32 products reaches the small algebra.
    ss, ts, s_sum, t_sum, square = (torch.stack(each).sum(0, dtype=torch.float64) for each in zip(*parts, strict=True))
    return GramSums(ss, ts, s_sum, t_sum, square, problem.count().double())


def _chunk_sums(problem: Problem, student: Tensor, targets: Tensor, mask: Tensor | None) -> tuple[Tensor, ...]:
    # A boolean mask keeps 16-bit tokens exact and in 16 bits; float weights take the products out of them.
    weighed, weighed_targets = (student, targets) if mask is None else (student * mask, targets * mask)
    if mask is None or mask.dtype == torch.bool:
        square = torch.linalg.vector_norm(weighed_targets, dtype=torch.float64).square()
    else:
        square = (weighed_targets.to(problem.accumulator) * targets).sum(dtype=torch.float64)
    return (
        transposed_product(weighed, student),
        transposed_product(weighed_targets, student),
        weighed.sum(0, dtype=problem.accumulator),
        weighed_targets.sum(0, dtype=problem.accumulator),
        square,
    )


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


def student_gradient(upstream: Tensor, problem: Problem) -> Tensor:
    """Upstream (scalar) times the gradient for the student tokens, (N, Ds) in their dtype."""
    dtype = problem.accumulator
    weight, rounded = problem.rounded_weight.double(), problem.rounded_weight
    square = parts_for(problem.student, own_product(rounded), dtype)
    to_student = weight if problem.basis is None else problem.basis.double() @ weight
    # A weight in the student's own type has no second half.
    stored_by = (rounded,) if problem.basis is None else parts_for(problem.student, to_student, dtype)
    constant = (weight.t() @ problem.bias.double()).to(dtype)
    factor = problem.per_token(upstream, 2 / weight.shape[0])
    student = problem.student
    out = student.new_empty(problem.num_tokens, weight.shape[1])
    for part, (tokens, values, mask) in zip(problem.parts(), problem.chunks(), strict=True):
        gradient = token_product(tokens, square).add_(constant)
        gradient = gradient.sub_(token_product(values, stored_by))
        gradient = gradient if mask is None else gradient.mul_(mask)
        torch.mul(gradient, factor, out=out[part])
    return out
