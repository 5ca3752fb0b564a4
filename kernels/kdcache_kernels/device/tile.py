"""Arithmetic of tiles that several kernels share, and how widths are cut into powers of two."""

# Names that exist only under a constexpr, and launch options, are beyond the type checker.
# pyright: reportPossiblyUnboundVariable=false, reportCallIssue=false, reportArgumentType=false, reportOperatorIssue=false

import functools

import triton
import triton.language as tl
from torch import Tensor

# Triton's names of stored types, for ahead-of-time compilation.
POINTERS = {"fp32": "*fp32", "bf16": "*bf16", "fp16": "*fp16", "int8": "*i8", "fp8": "*fp8e4nv"}


@triton.jit
def token_offsets(rows, per_batch, batch_stride, row_stride):
    """Element offsets of tokens: rows of one sequence, or of several images with a stride of their own."""
    images = (rows // per_batch).to(tl.int64)
    return images * batch_stride + (rows % per_batch).to(tl.int64) * row_stride


@triton.jit
def scaled(values, SCALE, SHIFT, rows, is_row, HAS_SCALE: tl.constexpr, HAS_SHIFT: tl.constexpr):
    """Float32 targets of a tile: ``scale * values + shift``, 0 beyond the last row."""
    if HAS_SCALE:
        values *= tl.load(SCALE + rows, mask=is_row, other=0.0)[:, None]
    if HAS_SHIFT:
        values += tl.load(SHIFT + rows, mask=is_row, other=0.0)[:, None]
    return values


@triton.jit
def value_and_slope(residual, beta, IS_SMOOTH: tl.constexpr):
    """The loss of each element and its derivative: smooth L1, or the square."""
    if IS_SMOOTH:
        size = tl.abs(residual)
        is_small = size < beta
        value = tl.where(is_small, 0.5 * residual * residual / beta, size - 0.5 * beta)
        slope = tl.where(is_small, residual / beta, tl.where(residual > 0, 1.0, -1.0))
    else:
        value = residual * residual
        slope = 2.0 * residual
    return value, slope


@functools.cache
def column_pieces(width: int, limit: int) -> tuple[int, int]:
    """Two powers of two (the second may be 0) that cover a width with the least padding: 192 is 128 + 64.

    Args:
        width: Channels.
        limit: The most a tile may hold; wider tensors take several tiles of that size.
    """
    powers = [2**power for power in range(4, 11)]
    pieces = [(first, second) for first in powers for second in (0, *powers) if second < first]
    # Of equal paddings the one in a single piece.
    return min((each for each in pieces if sum(each) >= min(width, limit)), key=lambda each: (sum(each), each[1]))


def pointer(tensor: Tensor | None, stand_in: Tensor) -> Tensor:
    """The tensor, or another whose address is never read."""
    return stand_in if tensor is None else tensor
