"""S^T m T and S^T m S over the tokens in one launch, with the column sums on the way."""

# Names that exist only under a constexpr, and launch options, are beyond the type checker.
# pyright: reportPossiblyUnboundVariable=false, reportCallIssue=false, reportArgumentType=false, reportOperatorIssue=false

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from kdcache_kernels.device.case import Case
from kdcache_kernels.device.sizes import WIDTHS, format_cases, linted_cases, tile_constants, timing_problem
from kdcache_kernels.device.tile import column_pieces, pointer, scaled, token_offsets
from kdcache_kernels.dispatch import Config
from kdcache_kernels.projection_problem import Problem, TokenRows

__all__ = ["WIDTHS"]

# Partial sums that may lie in memory between this kernel and the next.
_PARTIAL_BYTES = 14_000_000


@triton.jit
def _sweep(
    S, T, SCALE, SHIFT, MASK, PART, SUM, SQUARE, block_t,
    num_rows, per_batch, s_batch, s_row, t_per_batch, t_batch, t_row, tiles_per_split,
    DS: tl.constexpr, DT: tl.constexpr, C0: tl.constexpr, C1: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_N: tl.constexpr,
    HAS_SCALE: tl.constexpr, HAS_SHIFT: tl.constexpr, HAS_MASK: tl.constexpr,
):  # fmt: skip
    """One split's PART (DS, DT) for one block of T's columns and one of S's, and sums and squares of T's columns."""
    split = tl.program_id(1)
    block_s = tl.program_id(2)
    cols = block_t * BLOCK_T + tl.arange(0, BLOCK_T)
    is_col = cols < DT
    c0 = block_s * (C0 + C1) + tl.arange(0, C0)
    acc0 = tl.zeros((C0, BLOCK_T), tl.float32)
    if C1 > 0:
        c1 = block_s * (C0 + C1) + C0 + tl.arange(0, C1)
        acc1 = tl.zeros((C1, BLOCK_T), tl.float32)
    t_sum = tl.zeros((BLOCK_T,), tl.float32)
    t_square = tl.zeros((BLOCK_T,), tl.float32)
    tl.assume(tiles_per_split > 0)  # else Triton 3.6 waits after every product of the loop
    for tile in range(tiles_per_split):
        rows = (split * tiles_per_split + tile) * BLOCK_N + tl.arange(0, BLOCK_N)
        is_row = rows < num_rows
        s_at = token_offsets(rows, per_batch, s_batch, s_row)
        t_at = token_offsets(rows, t_per_batch, t_batch, t_row)
        stored = tl.load(T + t_at[:, None] + cols[None, :], mask=is_row[:, None] & is_col[None, :], other=0.0)
        if HAS_SCALE or HAS_SHIFT:
            t = scaled(stored.to(tl.float32), SCALE, SHIFT, rows, is_row, HAS_SCALE, HAS_SHIFT)
            if HAS_SHIFT:
                t = tl.where(is_row[:, None], t, 0.0)
            right = t.to(S.dtype.element_ty)
        else:
            right = stored.to(S.dtype.element_ty)
        # The squares too are of what was rounded: then the loss is that of the rounded targets, with no other error.
        t = right.to(tl.float32)
        if HAS_MASK:
            weighed = t * tl.load(MASK + rows, mask=is_row, other=0.0)[:, None]
            right = weighed.to(S.dtype.element_ty)
        else:
            weighed = t
        t_sum += tl.sum(weighed, 0)
        t_square += tl.sum(weighed * t, 0)
        s0 = tl.load(S + s_at[:, None] + c0[None, :], mask=is_row[:, None] & (c0 < DS)[None, :], other=0.0)
        acc0 = tl.dot(tl.trans(s0), right, acc0, input_precision="ieee")
        if C1 > 0:
            s1 = tl.load(S + s_at[:, None] + c1[None, :], mask=is_row[:, None] & (c1 < DS)[None, :], other=0.0)
            acc1 = tl.dot(tl.trans(s1), right, acc1, input_precision="ieee")
    part = PART + split.to(tl.int64) * DS * DT
    tl.store(part + c0[:, None] * DT + cols[None, :], acc0, mask=(c0 < DS)[:, None] & is_col[None, :])
    if C1 > 0:
        tl.store(part + c1[:, None] * DT + cols[None, :], acc1, mask=(c1 < DS)[:, None] & is_col[None, :])
    if block_s == 0:
        tl.store(SUM + split * DT + cols, t_sum, mask=is_col)
        tl.store(SQUARE + split * DT + cols, t_square, mask=is_col)


@triton.jit(do_not_specialize=["num_rows", "per_batch", "tiles_per_split"])
def gram_sums(
    S, T, SCALE, SHIFT, MASK, PART_T, T_SUM, T_SQUARE, PART_S, S_SUM, S_SQUARE,
    num_rows, per_batch, s_batch, s_row, t_row, tiles_per_split,
    DS: tl.constexpr, DT: tl.constexpr, C0: tl.constexpr, C1: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_N: tl.constexpr,
    T_BLOCKS: tl.constexpr, HAS_SCALE: tl.constexpr, HAS_SHIFT: tl.constexpr, HAS_MASK: tl.constexpr,
):  # fmt: skip
    """Grid: blocks of T's columns and then of S's, splits of the tokens, blocks of the other factor's columns.

    T = scale * values + shift is decoded and rounded to S's type in registers. Splits cover fixed ranges of tokens, so
    every run adds in the same order.
    """
    block = tl.program_id(0)
    if block < T_BLOCKS:
        _sweep(
            S, T, SCALE, SHIFT, MASK, PART_T, T_SUM, T_SQUARE, block,
            num_rows, per_batch, s_batch, s_row, num_rows, 0, t_row, tiles_per_split,
            DS, DT, C0, C1, BLOCK_T, BLOCK_N, HAS_SCALE, HAS_SHIFT, HAS_MASK,
        )  # fmt: skip
    else:
        _sweep(
            S, S, SCALE, SHIFT, MASK, PART_S, S_SUM, S_SQUARE, block - T_BLOCKS,
            num_rows, per_batch, s_batch, s_row, per_batch, s_batch, s_row, tiles_per_split,
            DS, DS, C0, C1, BLOCK_T, BLOCK_N, False, False, HAS_MASK,
        )  # fmt: skip


@dataclass(frozen=True)
class PartialSums:
    """Sums of each split of the tokens, float32; m stands for the tokens' weights.

    Args:
        st: (splits, Ds, Dt), sum of m s t^T.
        t_sum, t_square: (splits, Dt), sum of m t and m t^2.
        ss: (splits, Ds, Ds), sum of m s s^T.
        s_sum: (splits, Ds), sum of m s.
    """

    st: Tensor
    t_sum: Tensor
    t_square: Tensor
    ss: Tensor
    s_sum: Tensor


def launch(problem: Problem, config: Config, num_programs: int) -> PartialSums:
    """Run it.

    Args:
        problem: Tokens and targets.
        config: ``columns`` (most columns of S in a tile), ``block_t``, ``block_n``, ``num_warps``, ``num_stages``.
        num_programs: Programs that run at a time; the tokens are split so that one wave does it all.
    """
    student, values = TokenRows(problem.student), problem.values
    width, depth, num_rows = problem.student.shape[-1], values.shape[1], problem.num_tokens
    c0, c1 = column_pieces(width, config["columns"])
    t_blocks, s_blocks = triton.cdiv(depth, config["block_t"]), triton.cdiv(width, config["block_t"])
    own_blocks = triton.cdiv(width, c0 + c1)
    num_tiles = triton.cdiv(num_rows, config["block_n"])
    most = max(1, _PARTIAL_BYTES // (width * (depth + width) * 4))
    splits = max(1, min(num_tiles, most, num_programs // ((t_blocks + s_blocks) * own_blocks)))
    per_split = triton.cdiv(num_tiles, splits)
    splits = triton.cdiv(num_tiles, per_split)

    def empty(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.float32, device=values.device)

    st, t_sum, t_square = empty(splits, width, depth), empty(splits, depth), empty(splits, depth)
    ss, s_sum, s_square = empty(splits, width, width), empty(splits, width), empty(splits, width)
    gram_sums[(t_blocks + s_blocks, splits, own_blocks)](
        student.tokens, values, pointer(problem.scale, st), pointer(problem.shift, st), pointer(problem.mask, st),
        st, t_sum, t_square, ss, s_sum, s_square,
        num_rows, student.per_batch, student.batch_stride, student.row_stride, values.stride(0), per_split,
        DS=width, DT=depth, C0=c0, C1=c1, BLOCK_T=config["block_t"], BLOCK_N=config["block_n"], T_BLOCKS=t_blocks,
        HAS_SCALE=problem.scale is not None, HAS_SHIFT=problem.shift is not None, HAS_MASK=problem.mask is not None,
        num_warps=config["num_warps"], num_stages=config["num_stages"],
    )  # fmt: skip
    return PartialSums(st, t_sum, t_square, ss, s_sum)


# Tiles so small that tests at toy sizes launch several programs.
INTERPRETED = {"columns": 48, "block_t": 32, "block_n": 32, "num_warps": 4, "num_stages": 1}


def candidates(width: int) -> list[dict[str, int]]:
    """Settings for students of this width, best guess first."""
    if width <= 256:
        sizes = [(256, 128, 64, 8, 3), (256, 64, 64, 8, 3), (256, 128, 64, 8, 2), (256, 64, 64, 4, 3)]
    else:
        sizes = [(384, 64, 64, 8, 3), (256, 64, 64, 8, 3), (256, 128, 64, 8, 3), (256, 64, 32, 8, 3)]
    names = ("columns", "block_t", "block_n", "num_warps", "num_stages")
    return [dict(zip(names, size, strict=True)) for size in sizes]


def case(width: int, settings: Config) -> list[Case]:
    """What these settings compile to, for a teacher four times as wide."""
    pointers = ("SCALE", "SHIFT", "MASK", "PART_T", "T_SUM", "T_SQUARE", "PART_S", "S_SUM", "S_SQUARE")
    types = {"S": "*bf16", **dict.fromkeys(pointers, "*fp32"), "tiles_per_split": "i32"}
    blocks = {"T_BLOCKS": triton.cdiv(4 * width, settings["block_t"]), "HAS_MASK": False}
    return format_cases(gram_sums, types, {**tile_constants(width, 4 * width, settings), **blocks}, settings)


def cases() -> Iterator[Case]:
    """What the lint compiles."""
    return linted_cases("gram_sums", case)


def timing(width: int, settings: Config, device: torch.device) -> Callable[[], object]:
    """One sweep for a teacher four times as wide."""
    problem = timing_problem(width, 4 * width, device)
    num_programs = torch.cuda.get_device_properties(device).multi_processor_count
    return lambda: launch(problem, settings, num_programs)
