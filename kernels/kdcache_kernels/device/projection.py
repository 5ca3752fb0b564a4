"""The projected feature losses as sequences of kernels; what each sequence computes, its plain torch twin says."""

import functools
from collections.abc import Mapping

import torch
from torch import Tensor

from kdcache_kernels.device import cosine_factors, direct_ds, direct_dw, gram_ds, gram_small, gram_sums
from kdcache_kernels.dispatch import Config
from kdcache_kernels.gram import GramSums
from kdcache_kernels.gram import finish as finish_in_torch
from kdcache_kernels.products import in_halves
from kdcache_kernels.projection_problem import Problem

_INTERPRETED_PROGRAMS = 12
Configs = Mapping[str, Config]


def gram(problem: Problem, configs: Configs) -> tuple[Tensor, Tensor, Tensor]:
    """Squared error: loss and gradients for weight and bias."""
    parts = gram_sums.launch(problem, configs["gram_sums"], num_programs(problem.values))
    sums = gram_small.reduce(parts, configs["gram_small"])
    if problem.basis is None:
        return gram_small.finish(problem, problem.rounded_weight, sums, configs["gram_small"])
    return finish_in_torch(_summed(problem, sums), problem)


def cosine(problem: Problem, configs: Configs) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Cosine: loss, gradients for weight and bias, and the factors (2, N)."""
    weight = problem.rounded_weight
    losses, factors = cosine_factors.launch(problem, weight, configs["cosine_factors"])
    # The factors shrink with the width; scaled like this their products with tokens stay in float16's range.
    widened = float(weight.shape[0])
    splits = num_programs(problem.values)
    _, grad_weight, grad_bias = direct_dw.launch(
        problem, weight, "cosine", 1.0, configs["direct_dw"], splits, factors * widened
    )
    per_token = problem.inverse_count()
    return losses.sum() * per_token, grad_weight * (per_token / widened), grad_bias * (per_token / widened), factors


def gram_student_gradient(upstream: Tensor, problem: Problem, factors: Tensor, configs: Configs) -> Tensor:
    """The student's gradient (N, Ds) of either; the factors are empty for the squared error."""
    weight = problem.rounded_weight
    scaled_upstream = problem.per_token(upstream, 1.0 if factors.shape[1] else 2 / weight.shape[0])
    from_t = weight if problem.basis is None else _stacked(problem.basis.double() @ weight.double(), weight.dtype)
    small = gram_small.prepare(weight, problem.bias, configs["gram_small"])
    own = factors if factors.shape[1] else None
    return gram_ds.launch(problem, scaled_upstream, own, small, from_t, configs["gram_ds"])


def direct(problem: Problem, kind: str, beta: float, configs: Configs) -> tuple[Tensor, Tensor, Tensor]:
    """Squared error or smooth L1 through the residual: loss and gradients for weight and bias."""
    weight = problem.rounded_weight
    sums = direct_dw.launch(problem, weight, kind, beta, configs["direct_dw"], num_programs(problem.values))
    per_element = problem.inverse_count() / weight.shape[0]
    loss, grad_weight, grad_bias = (each * per_element for each in sums)
    return loss, grad_weight, grad_bias


def direct_student_gradient(upstream: Tensor, problem: Problem, kind: str, beta: float, configs: Configs) -> Tensor:
    """The student's gradient (N, Ds) of the same."""
    weight = problem.rounded_weight
    scaled_upstream = problem.per_token(upstream, 1 / weight.shape[0])
    return direct_ds.launch(problem, weight, scaled_upstream, kind, beta, configs["direct_ds"])


def _summed(problem: Problem, sums: gram_sums.Sums) -> GramSums:
    st, ss, s_sum, t_sum, t_square = (each.double() for each in sums.parts())
    return GramSums(ss, st.t(), s_sum, t_sum, t_square.sum(), problem.count().double())


def _stacked(matrix: Tensor, dtype: torch.dtype) -> Tensor:
    """A float64 matrix in a narrower type, with what rounding to 16 bits left stacked below."""
    return torch.cat(in_halves(matrix, dtype)) if dtype.itemsize == 2 else matrix.to(dtype)


def num_programs(tensor: Tensor) -> int:
    """Programs that run at a time: one a multiprocessor, since the partial sums' traffic grows with their number."""
    if not tensor.is_cuda:
        return _INTERPRETED_PROGRAMS
    return _multiprocessors(tensor.device)


@functools.cache
def _multiprocessors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count
