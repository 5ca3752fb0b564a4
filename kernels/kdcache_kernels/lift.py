"""Lift's tokens, LayerNorm(x W^T) * g + b, without a tensor of the teacher's width a token.

LayerNorm subtracts the mean over the teacher's channels, which is that of a projection with centred
columns W_c, and divides by a standard deviation that a quadratic form of the student's token gives:

    LayerNorm(x W^T) * g + b = (x * rstd) (W_c * g)^T + b,  rstd = (x (W_c^T W_c / Dt) x^T + eps)^-1/2

So the loss is `proj_mse` of x * rstd, and the mean lifted token is a projection of the mean of
x * rstd. The identity is exact. Lift: arXiv:2511.15572.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Tensor

from kdcache_kernels.products import parts_for, symmetric_product, token_product
from kdcache_kernels.proj_loss import proj_mse
from kdcache_kernels.token_chunks import tokens_at_once
from kdcache_kernels.tracing import gradients_by, needs_operator, without_operator


@final
@dataclass(frozen=True)
class LiftedTokens:
    """Lifted tokens as a product that is not carried out: ``tokens @ weight.T + bias``.

    Args:
        tokens: (B, N, Ds) or (N, Ds), the student's tokens over the standard deviation of their
            projection, in the student's dtype.
        weight: (Dt, Ds), the centred projection times LayerNorm's weight, at least float32.
        bias: (Dt,), LayerNorm's bias.
        mean: (B, Ds) or (Ds,), that of `tokens` over each image, in the dtype of `weight`.
    """

    tokens: Tensor
    weight: Tensor
    bias: Tensor
    mean: Tensor

    def whole(self) -> Tensor:
        """The lifted tokens themselves, (B, N, Dt) or (N, Dt), in the dtype of `weight`."""
        with _plain_precision(self.tokens):
            return F.linear(self.tokens.to(self.weight.dtype), self.weight, self.bias)

    def pooled(self) -> Tensor:
        """Mean lifted token of each image, (B, Dt) or (Dt,), in the dtype of `weight`."""
        with _plain_precision(self.tokens):
            return F.linear(self.mean, self.weight, self.bias)

    def mse(
        self,
        targets: Tensor,
        *,
        scale: Tensor | None = None,
        shift: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Mean squared error of the lifted tokens; arguments and result as in `proj_mse`."""
        return proj_mse(self.tokens, self.weight, self.bias, targets, scale=scale, shift=shift, mask=mask)


def lift_tokens(
    tokens: Tensor,
    weight: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    *,
    eps: float = 1e-5,
) -> LiftedTokens:
    """``LayerNorm(tokens @ weight.T) * norm_weight + norm_bias``, as a product still to be formed.

    Small matrices and standard deviations are computed in float32 (float64 for float64 tokens),
    under autocast too. Differentiable once.

    Args:
        tokens: (B, N, Ds) or (N, Ds), any float dtype of 16 bits or more.
        weight: (Dt, Ds), of a projection without bias.
        norm_weight, norm_bias: (Dt,), LayerNorm's.
        eps: LayerNorm's, added to the variance.

    Raises: ValueError for shapes that do not fit.
    """
    _check(tokens, weight, norm_weight, norm_bias)
    dtype = _accumulator(tokens)
    with _plain_precision(tokens):
        centred = weight.to(dtype)
        centred = centred - centred.mean(0)
        moments = centred.t() @ centred / len(weight)
        unit, mean = _unit_tokens(tokens, moments, eps)
        return LiftedTokens(unit, centred * norm_weight.to(dtype)[:, None], norm_bias.to(dtype), mean)


def lift_mse(
    tokens: Tensor,
    weight: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    targets: Tensor,
    *,
    scale: Tensor | None = None,
    eps: float = 1e-5,
) -> tuple[Tensor, Tensor]:
    """Loss of lifted tokens against stored targets, and the mean lifted token of each image.

    Args:
        tokens: And up to `norm_bias`, and `eps`: as in `lift_tokens`.
        targets, scale: As in `proj_mse`.

    Returns: the loss, scalar, and the mean lifted tokens, (B, Dt), which the class logits are a
        linear map of; both float32 (float64 for float64 tokens).
    """
    lifted = lift_tokens(tokens, weight, norm_weight, norm_bias, eps=eps)
    return lifted.mse(targets, scale=scale), lifted.pooled()


def _unit_tokens(tokens: Tensor, moments: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    if needs_operator(tokens, moments):
        return unit_variance(tokens, moments, eps)[:2]
    unit, mean = _UnitVariance.apply(tokens, moments, eps)
    return unit, mean


@torch.library.custom_op("kd::unit_variance", mutates_args=())
def unit_variance(tokens: Tensor, moments: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Tokens times ``rstd = (x moments x^T + eps)^-1/2``, their mean, and what the backward pass needs.

    The mean is formed here so that its gradient, the same for all tokens of an image, never is a tensor of all tokens.

    Args:
        tokens: (B, N, Ds) or (N, Ds).
        moments: (Ds, Ds), symmetric, in float32 (float64 for float64 tokens).
        eps: > 0.

    Returns: tokens of length one, contiguous, in shape and dtype of `tokens`; and in that of `moments` their means,
        (B, Ds) or (Ds,), the factors of all tokens, and ``x moments``, a row for each.
    """
    return _forward(tokens, moments, eps)


def _forward(tokens: Tensor, moments: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    flat = tokens.reshape(-1, tokens.shape[-1])
    unit = torch.empty_like(flat, memory_format=torch.contiguous_format)
    rstd, products = moments.new_empty(len(flat)), moments.new_empty(flat.shape)
    mean = moments.new_zeros(tokens.shape[:-2].numel(), tokens.shape[-1])
    parts = parts_for(flat, moments, moments.dtype)
    for images, rows in _chunks(tokens):
        product = token_product(flat[rows], parts, out=products[rows])
        variance = (product * flat[rows]).sum(1).clamp_min_(0)
        torch.rsqrt(variance.add_(eps), out=rstd[rows])
        scaled = torch.mul(flat[rows], rstd[rows, None], out=unit[rows])
        mean[images] += scaled.unflatten(0, (len(mean[images]), -1)).sum(1, dtype=mean.dtype)
    mean = mean.div_(tokens.shape[-2]).view(*tokens.shape[:-2], -1)
    return unit.view(tokens.shape), mean, rstd, products


@unit_variance.register_fake
def _(tokens: Tensor, moments: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    unit = torch.empty_like(tokens, memory_format=torch.contiguous_format)
    mean = moments.new_empty(*tokens.shape[:-2], tokens.shape[-1])
    number = tokens.shape[:-1].numel()
    return unit, mean, moments.new_empty(number), moments.new_empty(number, tokens.shape[-1])


@torch.library.custom_op("kd::unit_variance_backward", mutates_args=())
def unit_variance_backward(
    of_unit: Tensor | None, of_mean: Tensor | None, tokens: Tensor, moments: Tensor, rstd: Tensor, products: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients for tokens and moments, in dtypes of each.

    Args:
        of_unit, of_mean: Gradients of the first two results of `unit_variance`, or None, not both.
        tokens, moments: As `unit_variance` took them.
        rstd, products: As it returned them.
    """
    return _gradients(of_unit, of_mean, tokens, moments, rstd, products)


def _gradients(
    of_unit: Tensor | None, of_mean: Tensor | None, tokens: Tensor, moments: Tensor, rstd: Tensor, products: Tensor
) -> tuple[Tensor, Tensor]:
    flat = tokens.reshape(-1, tokens.shape[-1])
    of_unit = None if of_unit is None else of_unit.reshape(flat.shape)
    shares = None if of_mean is None else of_mean.reshape(-1, 1, flat.shape[1]) / tokens.shape[-2]
    gradient = torch.empty_like(flat, memory_format=torch.contiguous_format)
    of_moments = torch.zeros_like(moments)
    with _plain_precision(tokens):
        for images, rows in _chunks(tokens):
            values, factor = flat[rows].to(moments.dtype), rstd[rows, None]
            slopes = _slopes(of_unit, shares, images, rows, moments.dtype)
            # d rstd = -rstd^3 (moments x), and the gradient along x is what reaches rstd.
            cubed = (slopes * values).sum(1, keepdim=True).mul_(factor.pow(3))
            of_moments.sub_(symmetric_product(values * cubed, values), alpha=0.5)
            torch.addcmul(slopes.mul_(factor), products[rows], cubed, value=-1, out=gradient[rows])
    return gradient.view(tokens.shape), of_moments


def _slopes(of_unit: Tensor | None, shares: Tensor | None, images: slice, rows: slice, dtype: torch.dtype) -> Tensor:
    """Gradients of a chunk's tokens of length one, (n, Ds), newly made."""
    count, number = images.stop - images.start, rows.stop - rows.start
    if shares is None:
        assert of_unit is not None
        return of_unit[rows].to(dtype, copy=True)
    if of_unit is None:
        return shares[images].repeat(1, number // count, 1).flatten(0, 1)
    return torch.add(of_unit[rows].unflatten(0, (count, -1)), shares[images]).flatten(0, 1)


@unit_variance_backward.register_fake
def _(
    of_unit: Tensor | None, of_mean: Tensor | None, tokens: Tensor, moments: Tensor, *_: Tensor
) -> tuple[Tensor, Tensor]:
    gradient = torch.empty_like(tokens, memory_format=torch.contiguous_format)
    return gradient, torch.empty_like(moments)


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor, float], output: tuple[Tensor, ...]) -> None:
    ctx.mark_non_differentiable(*output[2:])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(inputs[0], inputs[1], *output[2:])


def _backward(ctx: Any, of_unit: Tensor | None, of_mean: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    if of_unit is None and of_mean is None:
        return None, None, None
    tensors = of_unit, of_mean, *ctx.saved_tensors
    return *gradients_by(unit_variance_backward, _gradients, *tensors)(*tensors), None


def _refuse(*_: Any) -> None:
    raise RuntimeError(
        "lifted tokens have no second derivative here; for a gradient penalty write them in torch: "
        "F.layer_norm(F.linear(tokens, weight), norm_weight.shape, norm_weight, norm_bias)"
    )


torch.library.register_autograd("kd::unit_variance", _backward, setup_context=_keep)
torch.library.register_autograd("kd::unit_variance_backward", _refuse)
_UnitVariance = without_operator(_forward, _keep, _backward, given=2)


def _chunks(tokens: Tensor) -> Iterator[tuple[slice, slice]]:
    """Images, and rows of theirs among all tokens: whole images or a part of one."""
    number, length = tokens.shape[:-2].numel(), tokens.shape[-2]
    most = tokens_at_once(tokens.shape[-1], _accumulator(tokens), tokens.device)
    step = max(1, most // max(1, length))
    for image in range(0, number, step):
        images = slice(image, min(image + step, number))
        end = images.stop * length
        for first in range(image * length, end, most):
            yield images, slice(first, min(first + most, end))


def _accumulator(tokens: Tensor) -> torch.dtype:
    return torch.float64 if tokens.dtype == torch.float64 else torch.float32


def _plain_precision(tokens: Tensor) -> torch.autocast:
    return torch.autocast(tokens.device.type, enabled=False)


def _check(tokens: Tensor, weight: Tensor, norm_weight: Tensor, norm_bias: Tensor) -> None:
    if tokens.dim() not in (2, 3) or not tokens.is_floating_point() or tokens.dtype.itemsize == 1:
        raise ValueError(
            "tokens must be (B, N, Ds) or (N, Ds) of a float dtype of 16 bits or more, got "
            f"{tuple(tokens.shape)} of {tokens.dtype}"
        )
    if weight.dim() != 2 or weight.shape[1] != tokens.shape[-1]:
        raise ValueError(f"weight must be (Dt, {tokens.shape[-1]}), got {tuple(weight.shape)}")
    for name, values in (("norm_weight", norm_weight), ("norm_bias", norm_bias)):
        if values.shape != weight.shape[:1]:
            raise ValueError(f"{name} must be ({len(weight)},), got {tuple(values.shape)}")
