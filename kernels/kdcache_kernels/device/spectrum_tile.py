"""Arithmetic of one tile of tokens that both spectrum kernels share."""

# Triton's launch options, indexing and constexprs are beyond the type checker.
# pyright: reportArgumentType=false, reportGeneralTypeIssues=false

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def power_of_two_scale(energy, WIDTH: tl.constexpr):
    """What brings a token's root mean square into [1, 2): float16 holds it, and a power of two adds no rounding."""
    exponent = (((energy / WIDTH).to(tl.int32, bitcast=True) >> 23) & 255) - 127
    return ((127 - (exponent >> 1)) << 23).to(tl.float32, bitcast=True)


@triton.jit
def normaliser(energy, scale, WIDTH: tl.constexpr):
    """One over the scaled token's energy over all bins (Parseval); 0 for zeros, NaN where float32 does not hold it."""
    total = tl.where(energy == 0, 1.0, energy * scale * scale * WIDTH)
    inverse = tl.where(energy < float("inf"), 1.0 / total, float("nan"))
    return tl.where(energy == 0, 0.0, inverse)


@triton.jit
def count_bins(counts, LEVELS, cumulative, dc, bins, WIDTH: tl.constexpr, NUM_LEVELS: tl.constexpr, FOLD: tl.constexpr):
    """Add to counts (tokens, levels) which of these bins, and of those they mirror, lie below each level.

    Args:
        counts: One column a level.
        LEVELS: Pointer to the levels.
        cumulative: (tokens, bins), normalised energy through each bin.
        dc: (tokens,), that of bin 0.
        bins: Their numbers; those past the half spectrum count nothing.
        WIDTH, NUM_LEVELS, FOLD: D, how many levels, and which of the two orders.
    """
    column = tl.arange(0, counts.shape[1])
    for index in tl.static_range(NUM_LEVELS):
        level = tl.load(LEVELS + index)
        if FOLD:
            below = (2 * cumulative - dc[:, None] < level) & (bins < WIDTH // 2)[None, :]
            number = tl.sum(below.to(tl.int32), 1)
        else:
            below = (cumulative < level) & (bins <= (WIDTH - 1) // 2)[None, :]
            # Through bin D - 1 - m all but the energy of bins 1 .. m has passed.
            mirrored = (cumulative - dc[:, None] > 1 - level) & ((bins > 0) & (bins < WIDTH // 2))[None, :]
            number = tl.sum(below.to(tl.int32) + mirrored.to(tl.int32), 1)
        counts += tl.where((column == index)[None, :], number[:, None], 0)
    return counts


@triton.jit
def store_bandwidth(BANDWIDTH, counts, energy, rows, num_tokens, NUM_LEVELS: tl.constexpr):
    """One more than the bins below a level; 0 for tokens of zeros, -1 for those that are not finite."""
    column = tl.arange(0, counts.shape[1])
    bandwidth = tl.where((energy < float("inf"))[:, None], counts + 1, -1)
    bandwidth = tl.where((energy == 0)[:, None], 0, bandwidth)
    mask = (rows < num_tokens)[:, None] & (column < NUM_LEVELS)[None, :]
    tl.store(BANDWIDTH + rows.to(tl.int64)[:, None] * NUM_LEVELS + column[None, :], bandwidth, mask=mask)


def refuse_capture(what: str) -> None:
    """Raises: RuntimeError while a CUDA graph is captured: a tensor made there is the graph's own, and not to keep."""
    if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
        raise RuntimeError(
            f"{what} would be made inside a CUDA graph and kept for later calls; "
            "call token_spectrum once at this width before the capture"
        )


def sizes(tokens: Tensor) -> tuple[int, int, int, int]:
    """Number of tokens, tokens in a batch, and strides of batch and token, of tokens (B, L, D)."""
    return tokens.shape[0] * tokens.shape[1], tokens.shape[1], tokens.stride(0), tokens.stride(1)
