"""Tokens to 8 bits with one scale per token, and the token statistics that the losses want, in one pass."""

from typing import get_args

import torch
from torch import Tensor

from kdcache_kernels.dispatch import choose, noted
from kdcache_kernels.quantized import LARGEST, WIDEST, Format
from kdcache_kernels.token_chunks import check_tokens, token_chunks, tokens_at_once
from kdcache_kernels.tracing import needs_operator

_DTYPES = {"int8": torch.int8, "fp8": torch.float8_e4m3fn}


def quantize(tokens: Tensor, *, codec: Format = "int8") -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Symmetric 8-bit values of each token: ``scale * values`` is the token again, to half a step.

    The largest absolute value of a token becomes 127 (int8) or 448 (fp8, e4m3); values are rounded to nearest, ties to
    even. The int8 form has the very bytes that the cache's int8 codec writes. A token of zeros, or one so small that
    its scale underflows, has scale 0.

    Args:
        tokens: (N, D) or (B, L, D) of any float dtype, rows contiguous, read as float32. No gradient comes back.
        codec: int8, or fp8 for e4m3.

    Returns:
        values: shaped as tokens, contiguous, int8 or float8_e4m3fn.
        scale: one float32 per token. NaN or Inf where the token holds NaN or Inf, whose values then mean nothing;
            a caller who cannot rule that out must look at it.
        sums: sum over each token, float32.
        squares: sum of squares over each token, float32.

    Raises: ValueError for another shape, dtype, layout or codec.
    """
    if codec not in get_args(Format):
        raise ValueError(f"codec must be int8 or fp8, got {codec!r}")
    check_tokens(tokens)
    if tokens.stride(-1) != 1 and tokens.shape[-1] > 1:
        raise ValueError(f"rows of tokens must be contiguous, got strides {tokens.stride()}; call .contiguous() first")
    if needs_operator(tokens):
        return _quantize(tokens.detach(), codec)
    with torch.no_grad():
        return _quantized(tokens, codec)


@torch.library.custom_op("kd::quantize", mutates_args=())
def _quantize(tokens: Tensor, codec: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _quantized(tokens, codec)


def _quantized(tokens: Tensor, codec: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    width = tokens.shape[-1]
    choice = noted(f"quantize {width}", choose(["quantize_rows"], tokens, width))
    if choice.form == "torch" or width > WIDEST:
        return _quantize_in_torch(tokens, codec)
    from kdcache_kernels.device.quantize_rows import launch

    values, scale, sums, squares = _outputs(tokens, codec)
    with torch.cuda.device_of(tokens):
        launch(tokens, values, scale, sums, squares, **choice.configs["quantize_rows"])
    return values, scale, sums, squares


@_quantize.register_fake
def _(tokens: Tensor, codec: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _outputs(tokens, codec)


def _outputs(tokens: Tensor, codec: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    shape = tokens.shape
    scale, sums, squares = (tokens.new_empty(shape[:-1], dtype=torch.float32) for _ in range(3))
    return tokens.new_empty(shape, dtype=_DTYPES[codec]), scale, sums, squares


def _quantize_in_torch(tokens: Tensor, codec: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    width = tokens.shape[-1]
    outputs = _outputs(tokens, codec)
    flat = outputs[0].view(-1, width), *(each.view(-1) for each in outputs[1:])
    most = tokens_at_once(width, torch.float32, tokens.device)
    # One array for all steps of all chunks: where memory is fresh, its pages cost more than the steps.
    space = tokens.new_empty(min(most, len(flat[0])), width, dtype=torch.float32)
    first = 0
    for chunk in token_chunks(tokens, most):
        rows = chunk.reshape(-1, width)
        part = slice(first, first + len(rows))
        _quantize_rows(rows, codec, space[: len(rows)], tuple(each[part] for each in flat))
        first = part.stop
    outputs[3].square_()
    return outputs


def _quantize_rows(rows: Tensor, codec: str, space: Tensor, outputs: tuple[Tensor, ...]) -> None:
    """Fill in what `quantize` returns of some rows; in place of their sums of squares, the roots of those."""
    values, scale, sums, lengths = outputs
    exact = rows.float()
    torch.sum(exact, dim=-1, out=sums)
    torch.linalg.vector_norm(exact, dim=-1, out=lengths)
    largest = torch.abs(exact, out=space).amax(dim=-1)
    # A tensor, because torch on CUDA divides by a number by multiplying with its rounded reciprocal.
    torch.div(largest, torch.full_like(largest, LARGEST[codec]), out=scale)
    steps = torch.div(exact, scale.masked_fill(scale == 0, 1).unsqueeze(-1), out=space)
    if codec == "int8":
        steps = steps.round_()
    values.copy_(steps.clamp_(-LARGEST[codec], LARGEST[codec]))
