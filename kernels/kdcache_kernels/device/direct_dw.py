"""Loss and parameter gradients through the residual, a tile of it at a time: the sweep of the forward pass."""

# Names that exist only under a constexpr, and launch options, are beyond the type checker.
# pyright: reportPossiblyUnboundVariable=false, reportCallIssue=false, reportArgumentType=false, reportOperatorIssue=false

from collections.abc import Callable, Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from kdcache_kernels.device.case import Case, Work
from kdcache_kernels.device.kernel import Kernel
from kdcache_kernels.device.launching import num_blocks, run
from kdcache_kernels.device.sizes import WIDTHS, format_cases, linted_cases, tile_constants, timing_problem
from kdcache_kernels.device.tile import column_pieces, pointer, scaled, token_offsets, value_and_slope
from kdcache_kernels.dispatch import Config
from kdcache_kernels.projection_problem import Problem, TokenRows


@triton.jit(do_not_specialize=["num_rows", "per_batch", "tiles_per_split"])
def direct_dw(
    S, T, SCALE, SHIFT, MASK, CA, CB, W, BIAS, PART, SUM, LOSS, beta,
    num_rows, per_batch, s_batch, s_row, t_row, tiles_per_split,
    DS: tl.constexpr, DT: tl.constexpr, C0: tl.constexpr, C1: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    IS_SMOOTH: tl.constexpr, HAS_FACTORS: tl.constexpr,
    HAS_SCALE: tl.constexpr, HAS_SHIFT: tl.constexpr, HAS_MASK: tl.constexpr, IS_FLAT: tl.constexpr,
):  # fmt: skip
    """One split's PART (DT, DS) = G^T S and SUM (DT,) of G, with G the loss's slope, for one block of T's columns and
    one of S's.

    With factors G = ca P + cb T, the cosine's, whose loss is known already; else LOSS takes one number a program.
    Splits cover fixed ranges of tokens, so every run adds in the same order. The product is held transposed, so that
    the slopes, made in registers, are its right operand and go through shared memory (triton#9433). Where a block holds
    all of S's columns each tile of S serves both products, and W is loaded once.
    """
    block = tl.program_id(0)
    split = tl.program_id(1)
    first_s = tl.program_id(2) * (C0 + C1)
    cols = block * BLOCK_T + tl.arange(0, BLOCK_T)
    is_col = cols < DT
    IS_WHOLE: tl.constexpr = DS <= C0 + C1
    c0 = first_s + tl.arange(0, C0)
    acc0 = tl.zeros((C0, BLOCK_T), tl.float32)
    if IS_WHOLE:
        w0 = tl.load(W + cols[:, None] * DS + c0[None, :], mask=is_col[:, None] & (c0 < DS)[None, :], other=0.0)
    if C1 > 0:
        c1 = first_s + C0 + tl.arange(0, C1)
        acc1 = tl.zeros((C1, BLOCK_T), tl.float32)
        if IS_WHOLE:
            w1 = tl.load(W + cols[:, None] * DS + c1[None, :], mask=is_col[:, None] & (c1 < DS)[None, :], other=0.0)
    bias = tl.load(BIAS + cols, mask=is_col, other=0.0).to(tl.float32)
    # Summed over the tokens only at the end: a sum across threads in every turn would be barriers in every turn.
    slopes = tl.zeros((BLOCK_N, BLOCK_T), tl.float32)
    loss = tl.zeros((BLOCK_N, BLOCK_T), tl.float32)
    tl.assume(tiles_per_split > 0)
    for tile in range(tiles_per_split):
        rows = (split * tiles_per_split + tile) * BLOCK_N + tl.arange(0, BLOCK_N)
        is_row = rows < num_rows
        s_at = rows.to(tl.int64) * s_row if IS_FLAT else token_offsets(rows, per_batch, s_batch, s_row)
        t_at = rows.to(tl.int64) * t_row
        s0 = tl.load(S + s_at[:, None] + c0[None, :], mask=is_row[:, None] & (c0 < DS)[None, :], other=0.0)
        if C1 > 0:
            s1 = tl.load(S + s_at[:, None] + c1[None, :], mask=is_row[:, None] & (c1 < DS)[None, :], other=0.0)
        if IS_WHOLE:
            projected = tl.dot(s0, tl.trans(w0), input_precision="ieee")
            if C1 > 0:
                projected = tl.dot(s1, tl.trans(w1), projected, input_precision="ieee")
        else:
            projected = tl.zeros((BLOCK_N, BLOCK_T), tl.float32)
            for first in range(0, DS, BLOCK_K):
                ks = first + tl.arange(0, BLOCK_K)
                s = tl.load(S + s_at[:, None] + ks[None, :], mask=is_row[:, None] & (ks < DS)[None, :], other=0.0)
                w = tl.load(W + cols[:, None] * DS + ks[None, :], mask=is_col[:, None] & (ks < DS)[None, :], other=0.0)
                projected = tl.dot(s, tl.trans(w), projected, input_precision="ieee")
        stored = tl.load(T + t_at[:, None] + cols[None, :], mask=is_row[:, None] & is_col[None, :], other=0.0)
        t = scaled(stored.to(tl.float32), SCALE, SHIFT, rows, is_row, HAS_SCALE, HAS_SHIFT)
        if HAS_FACTORS:
            ca = tl.load(CA + rows, mask=is_row, other=0.0)
            cb = tl.load(CB + rows, mask=is_row, other=0.0)
            slope = ca[:, None] * (projected + bias[None, :]) + cb[:, None] * t
            if S.dtype.element_ty == tl.float16:
                # A token without length has a slope beyond float16; infinity times its zeros would be NaN.
                slope = tl.minimum(tl.maximum(slope, -65504.0), 65504.0)
        else:
            residual = tl.where(is_row[:, None] & is_col[None, :], projected + bias[None, :] - t, 0.0)
            value, slope = value_and_slope(residual, beta, IS_SMOOTH)
            if HAS_MASK:
                weight = tl.load(MASK + rows, mask=is_row, other=0.0)
                value *= weight[:, None]
                slope *= weight[:, None]
            loss += value
        slopes += slope
        slope = slope.to(S.dtype.element_ty)
        acc0 = tl.dot(tl.trans(s0), slope, acc0, input_precision="ieee")
        if C1 > 0:
            acc1 = tl.dot(tl.trans(s1), slope, acc1, input_precision="ieee")
    part = PART + split.to(tl.int64) * DS * DT
    tl.store(part + cols[:, None] * DS + c0[None, :], tl.trans(acc0), mask=is_col[:, None] & (c0 < DS)[None, :])
    if C1 > 0:
        tl.store(part + cols[:, None] * DS + c1[None, :], tl.trans(acc1), mask=is_col[:, None] & (c1 < DS)[None, :])
    if tl.program_id(2) == 0:
        tl.store(SUM + split * DT + cols, tl.sum(slopes, 0), mask=is_col)
        tl.store(LOSS + split * tl.num_programs(0) + block, tl.sum(tl.sum(loss, 0), 0))


def launch(
    problem: Problem,
    weight: Tensor,
    kind: str,
    beta: float,
    config: Config,
    num_programs: int,
    factors: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Sums over all tokens, not yet divided by their number: loss, and gradients for weight and bias; float32.

    Args:
        problem: Tokens and targets.
        weight: (Dt, Ds), rounded, contiguous.
        kind: ``mse``, ``smooth_l1`` or ``cosine``.
        beta: Of smooth L1.
        config: ``columns`` (most of S's in a tile), ``block_t``, ``block_n``, ``block_k``, ``num_warps``,
            ``num_stages``.
        num_programs: Programs that run at a time.
        factors: (2, N) of the cosine; its loss is not computed here.
    """
    student, values = TokenRows(problem.student), problem.values
    depth, width = weight.shape
    c0, c1 = column_pieces(width, config["columns"])
    blocks, num_tiles = num_blocks(depth, config["block_t"]), num_blocks(problem.num_tokens, config["block_n"])
    own_blocks = num_blocks(width, c0 + c1)
    per_split = num_blocks(num_tiles, max(1, min(num_tiles, num_programs // (blocks * own_blocks))))
    splits = num_blocks(num_tiles, per_split)

    def empty(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.float32, device=values.device)

    part, sums, losses = empty(splits, depth, width), empty(splits, depth), empty(splits, blocks)
    run(
        direct_dw, (blocks, splits, own_blocks),
        student.tokens, values, pointer(problem.scale, part), pointer(problem.shift, part),
        pointer(problem.weights, part),
        part if factors is None else factors[0], part if factors is None else factors[1],
        weight, problem.bias, part, sums, losses, beta,
        problem.num_tokens, student.per_batch, student.batch_stride, student.row_stride, values.stride(0), per_split,
        DS=width, DT=depth, C0=c0, C1=c1, BLOCK_T=config["block_t"], BLOCK_N=config["block_n"],
        BLOCK_K=config["block_k"], IS_SMOOTH=kind == "smooth_l1", HAS_FACTORS=factors is not None,
        HAS_SCALE=problem.scale is not None, HAS_SHIFT=problem.shift is not None,
        HAS_MASK=problem.mask is not None, IS_FLAT=student.per_batch == problem.num_tokens,
        num_warps=config["num_warps"], num_stages=config["num_stages"],
    )  # fmt: skip
    return losses.sum(), part.sum(0), sums.sum(0)


# Tiles so small that tests at toy sizes launch several programs.
INTERPRETED = {"columns": 48, "block_t": 32, "block_n": 32, "block_k": 32, "num_warps": 4, "num_stages": 1}


def candidates(width: int) -> list[dict[str, int]]:
    """Settings for students of this width, best guess first."""
    names = ("columns", "block_t", "block_n", "block_k", "num_warps", "num_stages")
    # Without a pipeline first: less to go wrong, and little slower by the model.
    sizes = [(256, 64, 128, 64, 8, 1), (256, 64, 64, 64, 8, 1), (128, 64, 64, 64, 8, 1), (256, 64, 128, 64, 8, 2)]
    return [dict(zip(names, size, strict=True)) for size in sizes]


def case(width: int, settings: Config) -> list[Case]:
    """What these settings compile to, for smooth L1 and a teacher twice as wide."""
    types = {
        **dict.fromkeys(("S", "W"), "*bf16"),
        **dict.fromkeys(("SCALE", "SHIFT", "MASK", "CA", "CB", "BIAS", "PART", "SUM", "LOSS"), "*fp32"),
        "beta": "fp32",
        "tiles_per_split": "i32",
    }
    kind = {"IS_SMOOTH": True, "HAS_FACTORS": False, "HAS_MASK": False, "IS_FLAT": True}
    return format_cases(direct_dw, types, {**tile_constants(width, 2 * width, settings), **kind}, settings)


def cases() -> Iterator[Case]:
    """What the lint compiles."""
    return linted_cases("direct_dw", case)


def _work(given: Config) -> Work:
    # Every block of the student's channels forms the projection anew.
    own_blocks = num_blocks(given["DS"], given["C0"] + given["C1"])
    return Work(operations=2 * (own_blocks + 1) * given["num_rows"] * given["DS"] * given["DT"])


def timing(width: int, settings: Config, device: torch.device) -> Callable[[], object]:
    """One sweep for a teacher twice as wide."""
    problem = timing_problem(width, 2 * width, device)
    num_programs = torch.cuda.get_device_properties(device).multi_processor_count
    return lambda: launch(problem, problem.weight, "smooth_l1", 1.0, settings, num_programs)


KERNEL = Kernel(
    name="direct_dw",
    launch=launch,
    widths=WIDTHS,
    candidates=candidates,
    case=case,
    cases=cases,
    timing=timing,
    interpreted=INTERPRETED,
    work={"direct_dw": _work},
)
