"""The operations behind the projected feature losses, as torch sees them: opaque, with fakes and their own backward.

``kd::proj_loss`` sweeps over the tokens once and gives the loss with its gradients for weight and bias.
``kd::proj_loss_ds`` sweeps once more, in the backward pass, for the student's gradient. The upstream gradient is read
on the device there, so a loss scale reaches the gradient before it is rounded to 16 bits. Nothing of the tokens' size
is kept between the two but the tokens themselves.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from kdcache_kernels import cosine, direct, gram
from kdcache_kernels.dispatch import Choice, choose
from kdcache_kernels.projection_problem import Problem

# Above this ratio of widths the Gram form does less work than forming the projection (KERNELS 4).
_GRAM_RATIO = 1.5
_KERNELS = {
    "gram": ("gram_sums", "gram_small", "gram_ds"),
    "direct": ("direct_dw", "direct_ds"),
    "cosine": ("cosine_factors", "direct_dw", "gram_small", "gram_ds"),
}


def algorithm(problem: Problem, kind: str) -> str:
    """``gram``, ``direct`` or ``cosine``: how a loss is computed, whatever it runs on.

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
    how = algorithm(problem, kind)
    student, basis = problem.student, problem.basis
    if student.dtype == torch.float64 or (student.is_cuda and student.dtype == torch.float32):
        return Choice("torch", f"library products serve {student.dtype} students")
    if basis is not None and how == "cosine":
        return Choice("torch", "the cosine against a basis has no kernel")
    if basis is not None and problem.mask is not None and problem.mask.dtype != torch.bool:
        return Choice("torch", "coefficients of tokens with weights of their own have no kernel; a bool mask has")
    return choose(_KERNELS[how], student, problem.weight.shape[1])


def runs_eagerly(problem: Problem, kind: str) -> bool:
    """Whether plain differentiable torch is the best there is: on a GPU, no kernel, and no sums that spare the work.

    Under torch.compile the opaque operation stays, because what decides here is not for a graph.
    """
    if not problem.student.is_cuda or problem.basis is not None or torch.compiler.is_compiling():
        return False
    return algorithm(problem, kind) != "gram" and choice(problem, kind).form == "torch"


@contextmanager
def _exactly(student: Tensor) -> Iterator[None]:
    """Launch on the student's device, and keep the caller's autocast from products whose precision is the point."""
    with torch.cuda.device_of(student), torch.autocast(student.device.type, enabled=False):
        yield


@torch.library.custom_op("kd::proj_loss", mutates_args=())
def proj_loss(
    student: Tensor,
    weight: Tensor,
    bias: Tensor,
    values: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    mask: Tensor | None,
    basis: Tensor | None,
    kind: str,
    beta: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Loss, gradients for weight and bias, and the (2, N) factors of the cosine (empty for other losses)."""
    problem = Problem(student, weight, bias, values, scale, shift, mask, basis)
    with _exactly(student):
        found = _forward(problem, kind, beta)
    loss, grad_weight, grad_bias, factors = (each.to(problem.accumulator) for each in found)
    return loss, grad_weight, grad_bias, factors


def _forward(problem: Problem, kind: str, beta: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    how, chosen = algorithm(problem, kind), choice(problem, kind)
    factors = problem.weight.new_empty((2, 0), dtype=problem.accumulator)
    if chosen.form == "triton":
        from kdcache_kernels.device import projection as device

        if how == "cosine":
            loss, grad_weight, grad_bias, factors = device.cosine(problem, chosen.configs)
        elif how == "gram":
            loss, grad_weight, grad_bias = device.gram(problem, chosen.configs)
        else:
            loss, grad_weight, grad_bias = device.direct(problem, kind, beta, chosen.configs)
    elif how == "cosine":
        losses, ca, cb = cosine.token_factors(problem)
        loss, factors = losses.sum(dtype=torch.float64) * problem.inverse_count(), torch.stack([ca, cb])
        grad_weight, grad_bias = cosine.parameter_gradients(problem, ca, cb)
    elif how == "gram":
        loss, grad_weight, grad_bias = gram.finish(gram.token_sums(problem), problem)
    else:
        loss, grad_weight, grad_bias = direct.loss_and_parameter_gradients(problem, kind, beta)
    return loss, grad_weight, grad_bias, factors


@proj_loss.register_fake
def _(
    student: Tensor, weight: Tensor, bias: Tensor, values: Tensor, *rest: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    *_, kind, _beta = rest
    dtype = torch.float64 if student.dtype == torch.float64 else torch.float32
    num_factors = values.shape[0] if kind == "cosine" else 0
    return (
        student.new_empty((), dtype=dtype),
        torch.empty_like(weight, dtype=dtype, memory_format=torch.contiguous_format),
        torch.empty_like(bias, dtype=dtype, memory_format=torch.contiguous_format),
        student.new_empty((2, num_factors), dtype=dtype),
    )


@torch.library.custom_op("kd::proj_loss_ds", mutates_args=())
def proj_loss_ds(
    upstream: Tensor,
    student: Tensor,
    weight: Tensor,
    bias: Tensor,
    values: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    mask: Tensor | None,
    basis: Tensor | None,
    factors: Tensor,
    kind: str,
    beta: float,
) -> Tensor:
    """Upstream times the gradient for the student, contiguous, in its shape and dtype."""
    problem = Problem(student, weight, bias, values, scale, shift, mask, basis)
    with _exactly(student):
        return _student_gradient(upstream, problem, factors, kind, beta).view(student.shape)


def _student_gradient(upstream: Tensor, problem: Problem, factors: Tensor, kind: str, beta: float) -> Tensor:
    how, chosen = algorithm(problem, kind), choice(problem, kind)
    if chosen.form == "triton":
        from kdcache_kernels.device import projection as device

        if how == "direct":
            return device.direct_student_gradient(upstream, problem, kind, beta, chosen.configs)
        return device.gram_student_gradient(upstream, problem, factors, chosen.configs)
    if how == "direct":
        return direct.student_gradient(upstream, problem, kind, beta)
    if how == "gram":
        return gram.student_gradient(upstream, problem)
    return gram.student_gradient(upstream, problem, factors[0], factors[1])


@proj_loss_ds.register_fake
def _(upstream: Tensor, student: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(student, memory_format=torch.contiguous_format)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    *tensors, kind, beta = inputs
    _, grad_weight, grad_bias, factors = output
    ctx.mark_non_differentiable(grad_weight, grad_bias, factors)
    # Else zeros of the weight's size are made for gradients that nobody can have.
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors, grad_weight, grad_bias, factors)
    ctx.kind, ctx.beta = kind, beta


def _backward(ctx: Any, upstream: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    if upstream is None:
        return (None,) * 10
    *inputs, grad_weight, grad_bias, factors = ctx.saved_tensors
    needs_student, needs_weight, needs_bias = ctx.needs_input_grad[:3]
    weight, bias = inputs[1], inputs[2]
    return (
        proj_loss_ds(upstream, *inputs, factors, ctx.kind, ctx.beta) if needs_student else None,
        (grad_weight * upstream).to(weight.dtype) if needs_weight else None,
        (grad_bias * upstream).to(bias.dtype) if needs_bias else None,
        *[None] * 7,
    )


torch.library.register_autograd("kd::proj_loss", _backward, setup_context=_keep)
