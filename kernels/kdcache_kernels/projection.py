"""The operations behind the projected feature losses, as torch sees them.

``kd::proj_loss`` sweeps over the tokens and gives the loss with its gradients for weight and bias.
In plain torch the sweep gives the student's gradient too, but for its constant factor; kernels sweep
once more for it in ``kd::proj_loss_backward``. Either way the upstream gradient is read on the device
and multiplied in before the student's gradient is rounded, so a loss scale keeps its digits in 16
bits. Of the tokens' size nothing is kept between the two but the tokens and their gradient.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from kdcache_kernels import gram, sweep
from kdcache_kernels.dispatch import Choice, choose, noted
from kdcache_kernels.projection_problem import Problem
from kdcache_kernels.tracing import needs_operator

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
def _exactly(student: Tensor) -> Iterator[None]:
    """Launch on the student's device, and keep the caller's autocast from products whose precision is the point."""
    device = student.device.type
    casts = torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()
    with torch.cuda.device_of(student), casts:
        yield


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
    with _exactly(problem.student):
        found = forward(problem, kind, beta, for_student, for_parameters)
    loss, grad_weight, grad_bias, swept, factors = (each.to(problem.accumulator) for each in found)
    return loss, grad_weight, grad_bias, swept, factors


def _sweeps(problem: Problem, kind: str) -> bool:
    """Whether plain torch computes all gradients in the forward pass."""
    return problem.basis is None and choice(problem, kind).form == "torch"


def forward(problem: Problem, kind: str, beta: float, for_student: bool, for_parameters: bool) -> tuple[Tensor, ...]:
    """What `proj_loss` returns, some of it in float64."""
    dtype = problem.accumulator
    factors = problem.weight.new_empty((2, 0), dtype=dtype)
    swept = factors.new_empty((0, problem.weight.shape[1]))
    if _sweeps(problem, kind):
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


@proj_loss.register_fake
def _(student: Tensor, weight: Tensor, bias: Tensor, values: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    *rows, kind, _beta, for_student, for_parameters = rest
    problem = Problem(student, weight, bias, values, *rows)
    (depth, width), dtype = weight.shape, problem.accumulator
    sweeps = _sweeps(problem, kind)
    has_parameters = for_parameters or not sweeps
    factors = (0, 0) if sweeps else (2, values.shape[0] if kind == "cosine" else 0)
    return (
        student.new_empty((), dtype=dtype),
        student.new_empty((depth if has_parameters else 0, width), dtype=dtype),
        student.new_empty((depth if has_parameters else 0,), dtype=dtype),
        student.new_empty((values.shape[0] if sweeps and for_student else 0, width), dtype=dtype),
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
    with _exactly(student):
        return backward(upstream, problem, (grad_weight, grad_bias, swept, factors), kind, beta, needs)


def backward(
    upstream: Tensor,
    problem: Problem,
    forwarded: tuple[Tensor, ...],
    kind: str,
    beta: float,
    needs: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    """What `proj_loss_backward` returns; `forwarded` is what `forward` gave beside the loss."""
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
    # Under grad mode somebody wants to differentiate again, which only the operator refuses.
    as_operator = torch.is_grad_enabled() or needs_operator(upstream, *ctx.saved_tensors)
    gradients = proj_loss_backward if as_operator else _gradients
    found = gradients(upstream, *ctx.saved_tensors, ctx.kind, ctx.beta, needs)
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


class _ProjLoss(torch.autograd.Function):
    """`proj_loss` without its operator. (A ``setup_context`` of its own would cost 30 us a call.)"""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        output = _forward(*inputs)
        _keep(ctx, inputs, output)
        return output[0]

    backward = staticmethod(_backward)
