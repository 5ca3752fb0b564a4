"""How the projected feature losses are computed, forward and backward, in the form that was chosen.

A sweep over the tokens gives the loss with its gradients for weight and bias. In plain torch it gives the student's
gradient too, but for its constant factor; kernels sweep once more for it. Either way the upstream gradient is read on
the device and multiplied in before the student's gradient is rounded, so a loss scale keeps its digits in 16 bits. Of
the tokens' size nothing is kept between the two but the tokens and their gradient.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor

from kdcache_kernels import gram, sweep
from kdcache_kernels.dispatch import Choice, choose, noted
from kdcache_kernels.projection_problem import Problem

# Above this ratio of widths the Gram form does less work than forming the projection.
_GRAM_RATIO = 1.5
# What each algorithm launches.
KERNELS = {
    "gram": ("gram_sums", "gram_small", "gram_ds"),
    "direct": ("direct_dw", "direct_ds"),
    "cosine": ("cosine_factors", "direct_dw", "gram_small", "gram_ds"),
}


def algorithm(problem: Problem, kind: str) -> str:
    """``gram``, ``direct`` or ``cosine``: how kernels compute a loss.

    The Gram form subtracts large sums; that costs 16-bit students nothing they had, and float32 students some digits
    of a small loss, so those keep the residual. So do tokens whose mask holds weights and not only bools.
    """
    if kind == "cosine":
        return "cosine"
    if problem.basis is not None:
        return "gram"
    wide = problem.weight.shape[0] >= _GRAM_RATIO * problem.weight.shape[1]
    # Sums of weighed tokens would round every weight on its own; what they cancel to then keeps those errors.
    weighed = problem.mask is not None and problem.mask.dtype != torch.bool
    sums_suffice = wide and problem.student.dtype.itemsize == 2 and not weighed
    return "gram" if kind == "mse" and sums_suffice else "direct"


def choice(problem: Problem, kind: str) -> Choice:
    """Triton or torch, and why."""
    depth, width = problem.weight.shape
    return noted(f"proj_{kind} {width} to {depth}", _choice(problem, kind))


def _choice(problem: Problem, kind: str) -> Choice:
    how = algorithm(problem, kind)
    student, basis = problem.student, problem.basis
    if student.dtype == torch.float64 or (student.is_cuda and student.dtype == torch.float32):
        return Choice("torch", f"library products serve {student.dtype} students")
    if basis is not None and how == "cosine":
        return Choice("torch", "the cosine against a basis has no kernel")
    if basis is not None and problem.mask is not None and problem.mask.dtype != torch.bool:
        return Choice("torch", "coefficients of tokens with weights of their own have no kernel; a bool mask has")
    return choose(KERNELS[how], student, problem.weight.shape[1])


@contextmanager
def exactly(student: Tensor) -> Iterator[None]:
    """Launch on the student's device, and keep the caller's autocast from products whose precision is the point."""
    device = student.device.type
    casts = torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()
    with torch.cuda.device_of(student), casts:
        yield


def sweeps(problem: Problem, kind: str) -> bool:
    """Whether plain torch computes all gradients in the forward pass."""
    return problem.basis is None and choice(problem, kind).form == "torch"


def forward(problem: Problem, kind: str, beta: float, for_student: bool, for_parameters: bool) -> tuple[Tensor, ...]:
    """What ``kd::proj_loss`` returns, some of it in float64."""
    dtype = problem.accumulator
    factors = problem.weight.new_empty((2, 0), dtype=dtype)
    swept = factors.new_empty((0, problem.weight.shape[1]))
    if sweeps(problem, kind):
        found = sweep.sweep(problem, kind, beta, for_student=for_student, for_parameters=for_parameters)
        return (
            found.loss,
            torch.empty_like(swept) if found.weight is None else found.weight,
            factors.new_empty(0) if found.bias is None else found.bias,
            swept if found.student is None else found.student,
            factors[:0],
        )
    how, chosen = algorithm(problem, kind), choice(problem, kind)
    if chosen.form == "torch":
        return *gram.finish(gram.token_sums(problem), problem), swept, factors
    from kdcache_kernels.device import projection as device

    if how == "cosine":
        *found, factors = device.cosine(problem, chosen.configs)
    elif how == "gram":
        found = device.gram(problem, chosen.configs)
    else:
        found = device.direct(problem, kind, beta, chosen.configs)
    return *found, swept, factors


def backward(
    upstream: Tensor,
    problem: Problem,
    forwarded: tuple[Tensor, ...],
    kind: str,
    beta: float,
    needs: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    """What ``kd::proj_loss_backward`` returns; `forwarded` is what `forward` gave beside the loss."""
    grad_weight, grad_bias, swept, factors = forwarded
    student, weight, bias = problem.student, problem.weight, problem.bias
    found = [student.new_empty(0), weight.new_empty(0), bias.new_empty(0)]
    if _was_swept(factors):
        _check_swept(problem, forwarded, needs)
        factor = sweep.gradient_factor(kind, beta, len(weight))
        upstream = problem.per_token(upstream, factor)
    elif needs[0]:
        gradient = _student_gradient(upstream, problem, factors, kind, beta)
        found[0] = gradient.view(student.shape)
    # The rest in one launch, but for a student's gradient in 16 bits, which is rounded as it is written.
    scaled = {1: grad_weight, 2: grad_bias}
    if _was_swept(factors) and needs[0]:
        if student.dtype == swept.dtype:
            scaled[0] = swept.view(student.shape)
        else:
            found[0] = torch.empty_like(swept, dtype=student.dtype).view(student.shape)
            torch.mul(swept.view(student.shape), upstream, out=found[0])
    chosen = {number: each for number, each in scaled.items() if needs[number]}
    if chosen:
        results = torch._foreach_mul(list(chosen.values()), upstream.to(factors.dtype))
        for number, each in zip(chosen, results, strict=True):
            found[number] = each.to((student, weight, bias)[number].dtype)
    return found[0], found[1], found[2]


def _was_swept(factors: Tensor) -> bool:
    """Whether `forward` took all gradients from one sweep, by the mark that it leaves."""
    return factors.shape[0] == 0


def _check_swept(problem: Problem, forwarded: tuple[Tensor, ...], needs: Sequence[bool]) -> None:
    grad_weight, _, swept, _ = forwarded
    has_student, has_weight = len(swept) == problem.num_tokens, len(grad_weight) > 0
    if (needs[0] and not has_student) or (any(needs[1:]) and not has_weight):
        raise RuntimeError(
            "kd::proj_loss ran without for_student or for_parameters, and now that gradient is "
            "wanted; call proj_mse, proj_smooth_l1 or proj_cosine, which set both"
        )


def _student_gradient(upstream: Tensor, problem: Problem, factors: Tensor, kind: str, beta: float) -> Tensor:
    how, chosen = algorithm(problem, kind), choice(problem, kind)
    if chosen.form == "triton":
        from kdcache_kernels.device import projection as device

        if how == "direct":
            return device.direct_student_gradient(upstream, problem, kind, beta, chosen.configs)
        return device.gram_student_gradient(upstream, problem, factors, chosen.configs)
    if problem.basis is None:
        raise RuntimeError(
            "the forward pass ran Triton kernels and the backward pass may not: keep KD_KERNELS "
            "as it is between the two"
        )
    return gram.student_gradient(upstream, problem)
