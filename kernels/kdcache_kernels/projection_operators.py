"""The projected feature losses as torch sees them: operators for its compiler, an autograd function for all others.

``kd::proj_loss`` gives the loss with its gradients for weight and bias, and for the student where plain torch sweeps;
``kd::proj_loss_backward`` multiplies the upstream gradient in, and has kernels sweep once more for the student's.
"""

from typing import Any

import torch
from torch import Tensor

from kdcache_kernels.projection import backward, exactly, forward, sweeps
from kdcache_kernels.projection_problem import Problem
from kdcache_kernels.tracing import gradients_by, needs_operator, without_operator


def loss(student: Tensor, weight: Tensor, bias: Tensor, values: Tensor, *rest: Any) -> Tensor:
    """The loss alone, differentiable; arguments as of `proj_loss`."""
    if needs_operator(student, weight, bias, values):
        return proj_loss(student, weight, bias, values, *rest)[0]
    return _ProjLoss.apply(student, weight, bias, values, *rest)


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
    for_student: bool,
    for_parameters: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Loss, and what the backward pass will need.

    Returns: the loss; its gradients for weight and bias; the student's gradient, or (0, Ds); factors
        of the cosine, (2, N) or (2, 0). Where plain torch sweeps, the gradients lack a common factor
        and are empty unless asked for, and factors are (0, 0). Kernels and sums over tokens give
        gradients for weight and bias in any case, and none for the student.
    """
    tensors = student, weight, bias, values, scale, shift, mask, basis
    return _forward(*tensors, kind, beta, for_student, for_parameters)


def _forward(*inputs: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    *tensors, kind, beta, for_student, for_parameters = inputs
    problem = Problem(*tensors)
    with exactly(problem.student):
        found = forward(problem, kind, beta, for_student, for_parameters)
    loss, grad_weight, grad_bias, swept, factors = (each.to(problem.accumulator) for each in found)
    return loss, grad_weight, grad_bias, swept, factors


@proj_loss.register_fake
def _(student: Tensor, weight: Tensor, bias: Tensor, values: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    *rows, kind, _beta, for_student, for_parameters = rest
    problem = Problem(student, weight, bias, values, *rows)
    (depth, width), dtype = weight.shape, problem.accumulator
    is_swept = sweeps(problem, kind)
    has_parameters = for_parameters or not is_swept
    factors = (0, 0) if is_swept else (2, values.shape[0] if kind == "cosine" else 0)
    return (
        student.new_empty((), dtype=dtype),
        student.new_empty((depth if has_parameters else 0, width), dtype=dtype),
        student.new_empty((depth if has_parameters else 0,), dtype=dtype),
        student.new_empty((values.shape[0] if is_swept and for_student else 0, width), dtype=dtype),
        student.new_empty(factors, dtype=dtype),
    )


@torch.library.custom_op("kd::proj_loss_backward", mutates_args=())
def proj_loss_backward(
    upstream: Tensor,
    student: Tensor,
    weight: Tensor,
    bias: Tensor,
    values: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    mask: Tensor | None,
    basis: Tensor | None,
    grad_weight: Tensor,
    grad_bias: Tensor,
    swept: Tensor,
    factors: Tensor,
    kind: str,
    beta: float,
    needs: list[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    """Upstream times the gradients for student, weight and bias, contiguous, in shape and dtype of each.

    Args:
        upstream: scalar.
        student: And the other tensors as `proj_loss` took them.
        values: As `proj_loss` took them, or None where `swept` has the gradient.
        grad_weight: And the others up to `factors` as `proj_loss` returned them.
        kind, beta: As `proj_loss` took them.
        needs: Of which of the three a gradient is needed; the others are empty.
    """
    tensors = student, weight, bias, values, scale, shift, mask, basis
    return _gradients(upstream, *tensors, grad_weight, grad_bias, swept, factors, kind, beta, needs)


def _gradients(upstream: Tensor, *inputs: Any) -> tuple[Tensor, Tensor, Tensor]:
    student, weight, bias, values, *rows, grad_weight, grad_bias, swept, factors, kind, beta, needs = inputs
    # Where the targets are not kept nothing reads more of them than how many there were: one a student's token.
    stored = student.flatten(0, -2) if values is None else values
    problem = Problem(student, weight, bias, stored, *rows)
    with exactly(student):
        return backward(upstream, problem, (grad_weight, grad_bias, swept, factors), kind, beta, needs)


@proj_loss_backward.register_fake
def _(upstream: Tensor, student: Tensor, weight: Tensor, bias: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    found = [
        torch.empty_like(each, memory_format=torch.contiguous_format) if needed
        else each.new_empty(0)
        for each, needed in zip((student, weight, bias), rest[-1], strict=True)
    ]  # fmt: skip
    return found[0], found[1], found[2]


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, kind, beta, _for_student, _for_parameters = inputs
    ctx.mark_non_differentiable(*output[1:])
    # Else zeros of the weight's size are made for gradients that nobody can have.
    ctx.set_materialize_grads(False)
    # Targets are read again only where the student's gradient is not there yet.
    if not ctx.needs_input_grad[0] or len(output[3]):
        tensors[3] = None
    ctx.save_for_backward(*tensors, *output[1:])
    ctx.kind, ctx.beta = kind, beta


def _backward(ctx: Any, upstream: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    if upstream is None:
        return (None,) * 12
    needs = list(ctx.needs_input_grad[:3])
    tensors = upstream, *ctx.saved_tensors
    found = gradients_by(proj_loss_backward, _gradients, *tensors)(*tensors, ctx.kind, ctx.beta, needs)
    given = [each if needed else None for each, needed in zip(found, needs, strict=True)]
    return (*given, *[None] * 9)


def _refuse(*_: Any) -> None:
    raise RuntimeError(
        "a projected feature loss has no second derivative: its gradients are computed by an "
        "operation that cannot be differentiated again. For a gradient penalty write the loss in "
        "torch: F.mse_loss(F.linear(student, weight, bias), targets)"
    )


torch.library.register_autograd("kd::proj_loss", _backward, setup_context=_keep)
torch.library.register_autograd("kd::proj_loss_backward", _refuse)
_ProjLoss = without_operator(_forward, _keep, _backward)
