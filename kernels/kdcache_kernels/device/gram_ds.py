"""The student's gradient in the Gram form: one product of [S | T] with two small matrices."""

# Names that exist only under a constexpr, and launch options, are beyond the type checker.
# pyright: reportPossiblyUnboundVariable=false, reportCallIssue=false, reportArgumentType=false, reportOperatorIssue=false

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
import triton
import triton.language as tl
from torch import Tensor

from kdcache_kernels.device.case import Case, Work
from kdcache_kernels.device.kernel import Kernel
from kdcache_kernels.device.launching import num_blocks, run
from kdcache_kernels.device.sizes import (
    WIDTHS,
    format_cases,
    linted_cases,
    stages,
    tile_constants,
    timing_problem,
)
from kdcache_kernels.device.tile import column_pieces, pointer, token_offsets
from kdcache_kernels.dispatch import Config
from kdcache_kernels.projection_problem import Problem, TokenRows


@triton.jit
def _factors(
    SCALE, CA, CB, MASK, rows, is_row,
    HAS_SCALE: tl.constexpr, HAS_FACTORS: tl.constexpr, HAS_MASK: tl.constexpr,
):  # fmt: skip
    """What the sum over S is multiplied by before T's products are added to it, and all of it afterwards."""
    if HAS_SCALE:
        scale = tl.load(SCALE + rows, mask=is_row, other=1.0)
        scale = tl.where(tl.abs(scale) < 1e-20, 1e-20, scale)
    else:
        scale = tl.full(rows.shape, 1.0, tl.float32)
    if HAS_FACTORS:
        ca = tl.load(CA + rows, mask=is_row, other=0.0)
        cb = tl.load(CB + rows, mask=is_row, other=0.0)
        safe = tl.where(cb == 0, 1.0, cb)
        return tl.where(cb == 0, 0.0, ca / (safe * scale)), cb * scale, cb
    if HAS_MASK:
        weight = tl.load(MASK + rows, mask=is_row, other=0.0)
    else:
        weight = tl.full(rows.shape, 1.0, tl.float32)
    return -1.0 / scale, -weight * scale, -weight


@triton.jit
def _added(acc, tokens, matrix, IS_SWAPPED: tl.constexpr):
    """acc + tokens @ matrix, or its transpose where acc is held so."""
    if IS_SWAPPED:
        acc = tl.dot(tl.trans(matrix), tl.trans(tokens), acc, input_precision="ieee")
    else:
        acc = tl.dot(tokens, matrix, acc, input_precision="ieee")
    return acc


@triton.jit
def _begun(acc, constant, before, IS_SWAPPED: tl.constexpr):
    """The sum over S, ready for T's products."""
    if IS_SWAPPED:
        acc = (acc * 16.0 + constant[:, None]) * before[None, :]
    else:
        acc = (acc * 16.0 + constant[None, :]) * before[:, None]
    return acc


@triton.jit(do_not_specialize=["num_rows", "per_batch"])
def gram_ds(
    S, T, SCALE, SHIFT, CA, CB, MASK, SQUARE, CONSTANT, FROM_T, FROM_ONE, UPSTREAM, OUT,
    num_rows, per_batch, s_batch, s_row, t_row,
    DS: tl.constexpr, DT: tl.constexpr, C0: tl.constexpr, C1: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    HALVES: tl.constexpr, T_HALVES: tl.constexpr, HAS_SCALE: tl.constexpr, HAS_SHIFT: tl.constexpr,
    HAS_FACTORS: tl.constexpr, HAS_MASK: tl.constexpr,
):  # fmt: skip
    """OUT = upstream * (ca (16 S M + constant) + cb (T U)), one tile of tokens and of S's channels.

    M (DS, DS), a sixteenth of W^T W, and where T are coefficients also U (DT, DS), come in halves stacked along their
    rows, because their rounding would reach the difference of the two sums. ca = mask and cb = -mask for the squared
    error. UPSTREAM, a scalar on the device, holds all constant factors. FROM_ONE is the column sum of U, for shifted
    targets.

    A T of another type than S would be a left operand in registers, which pipelined products must not have before
    ptxas 13.3 (triton#9433): there everything is transposed, and T the right operand, in shared memory.
    """
    IS_SWAPPED: tl.constexpr = T.dtype != S.dtype
    rows = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    is_row = rows < num_rows
    first = tl.program_id(1) * (C0 + C1)
    c0 = first + tl.arange(0, C0)
    s_at = token_offsets(rows, per_batch, s_batch, s_row)
    t_at = rows.to(tl.int64) * t_row
    before, after, by_shift = _factors(SCALE, CA, CB, MASK, rows, is_row, HAS_SCALE, HAS_FACTORS, HAS_MASK)
    acc0 = tl.zeros((C0, BLOCK_N) if IS_SWAPPED else (BLOCK_N, C0), tl.float32)
    if C1 > 0:
        c1 = first + C0 + tl.arange(0, C1)
        acc1 = tl.zeros((C1, BLOCK_N) if IS_SWAPPED else (BLOCK_N, C1), tl.float32)
    S_TILES: tl.constexpr = (DS + BLOCK_K - 1) // BLOCK_K
    for tile in range(HALVES * S_TILES):
        ks = (tile % S_TILES) * BLOCK_K + tl.arange(0, BLOCK_K)
        at = ((tile // S_TILES) * DS + ks)[:, None] * DS
        is_k = ks < DS
        s = tl.load(S + s_at[:, None] + ks[None, :], mask=is_row[:, None] & is_k[None, :], other=0.0)
        m0 = tl.load(SQUARE + at + c0[None, :], mask=is_k[:, None] & (c0 < DS)[None, :], other=0.0)
        acc0 = _added(acc0, s, m0, IS_SWAPPED)
        if C1 > 0:
            m1 = tl.load(SQUARE + at + c1[None, :], mask=is_k[:, None] & (c1 < DS)[None, :], other=0.0)
            acc1 = _added(acc1, s, m1, IS_SWAPPED)
    acc0 = _begun(acc0, tl.load(CONSTANT + c0, mask=c0 < DS, other=0.0), before, IS_SWAPPED)
    if C1 > 0:
        acc1 = _begun(acc1, tl.load(CONSTANT + c1, mask=c1 < DS, other=0.0), before, IS_SWAPPED)
    T_TILES: tl.constexpr = (DT + BLOCK_K - 1) // BLOCK_K
    for tile in range(T_HALVES * T_TILES):
        ks = (tile % T_TILES) * BLOCK_K + tl.arange(0, BLOCK_K)
        at = ((tile // T_TILES) * DT + ks)[:, None] * DS
        is_k = ks < DT
        t = tl.load(T + t_at[:, None] + ks[None, :], mask=is_row[:, None] & is_k[None, :], other=0.0)
        t = t.to(S.dtype.element_ty)
        u0 = tl.load(FROM_T + at + c0[None, :], mask=is_k[:, None] & (c0 < DS)[None, :], other=0.0)
        acc0 = _added(acc0, t, u0, IS_SWAPPED)
        if C1 > 0:
            u1 = tl.load(FROM_T + at + c1[None, :], mask=is_k[:, None] & (c1 < DS)[None, :], other=0.0)
            acc1 = _added(acc1, t, u1, IS_SWAPPED)
    upstream = tl.load(UPSTREAM)
    if IS_SWAPPED:
        acc0 = tl.trans(acc0)
        if C1 > 0:
            acc1 = tl.trans(acc1)
    acc0 *= after[:, None]
    if HAS_SHIFT:
        shift = tl.load(SHIFT + rows, mask=is_row, other=0.0) * by_shift
        acc0 += shift[:, None] * tl.load(FROM_ONE + c0, mask=c0 < DS, other=0.0)[None, :]
    out = OUT + rows.to(tl.int64)[:, None] * DS
    kind: tl.constexpr = OUT.dtype.element_ty
    tl.store(out + c0[None, :], (acc0 * upstream).to(kind), mask=is_row[:, None] & (c0 < DS)[None, :])
    if C1 > 0:
        acc1 *= after[:, None]
        if HAS_SHIFT:
            acc1 += shift[:, None] * tl.load(FROM_ONE + c1, mask=c1 < DS, other=0.0)[None, :]
        tl.store(out + c1[None, :], (acc1 * upstream).to(kind), mask=is_row[:, None] & (c1 < DS)[None, :])


def launch(
    problem: Problem,
    upstream: Tensor,
    factors: Tensor | None,
    small: tuple[Tensor, Tensor],
    from_t: Tensor,
    config: Config,
) -> Tensor:
    """The gradient (N, Ds), contiguous, in the student's dtype.

    Args:
        problem: Tokens and targets; its mask counts only without factors.
        upstream: scalar with every constant factor in it, float32.
        factors: (2, N), ca and cb with the tokens' weights in them; None for the squared error.
        small: `gram_small.prepare`'s M and constant.
        from_t: U, or its halves stacked.
        config: ``columns``, ``block_n``, ``block_k``, ``num_warps``, ``num_stages``, ``num_stages_converted``.
    """
    student, values = TokenRows(problem.student), problem.values
    width, depth, num_rows = problem.student.shape[-1], values.shape[1], problem.num_tokens
    square, constant = small
    from_one = from_t.float().sum(0) if problem.shift is not None else constant
    c0, c1 = column_pieces(width, config["columns"])
    out = torch.empty((num_rows, width), dtype=problem.student.dtype, device=values.device)
    run(
        gram_ds, (num_blocks(num_rows, config["block_n"]), num_blocks(width, c0 + c1)),
        student.tokens, values, pointer(problem.scale, constant), pointer(problem.shift, constant),
        constant if factors is None else factors[0], constant if factors is None else factors[1],
        pointer(problem.weights, constant), square, constant, from_t, from_one, upstream, out,
        num_rows, student.per_batch, student.batch_stride, student.row_stride, values.stride(0),
        DS=width, DT=depth, C0=c0, C1=c1, BLOCK_N=config["block_n"], BLOCK_K=config["block_k"],
        HALVES=square.shape[0] // width, T_HALVES=from_t.shape[0] // depth, HAS_SCALE=problem.scale is not None,
        HAS_SHIFT=problem.shift is not None, HAS_FACTORS=factors is not None, HAS_MASK=problem.mask is not None,
        num_warps=config["num_warps"],
        num_stages=stages(config, problem.values.dtype != problem.student.dtype),
    )  # fmt: skip
    return out


# Tiles so small that tests at toy sizes launch several programs.
INTERPRETED = {"columns": 48, "block_n": 32, "block_k": 32, "num_warps": 4, "num_stages": 1}


def candidates(width: int) -> list[dict[str, int]]:
    """Settings for students of this width, best guess first."""
    if width <= 256:
        sizes = [(256, 128, 64, 8, 4), (256, 128, 64, 8, 3), (256, 64, 64, 8, 3), (256, 64, 32, 8, 3)]
    else:
        sizes = [(384, 64, 64, 8, 4), (384, 64, 64, 8, 3), (256, 64, 64, 8, 3), (256, 64, 32, 8, 3)]
    names = ("columns", "block_n", "block_k", "num_warps", "num_stages")
    made = [dict(zip(names, size, strict=True)) | {"num_stages_converted": 3} for size in sizes]
    # Half as many turns, each with the same barriers; predicted to be faster, never timed.
    deep = dict(zip(names, (256 if width <= 256 else 192, 128, 128, 8, 2), strict=True))
    return [*made, deep | {"num_stages_converted": 2}]


def case(width: int, settings: Config) -> list[Case]:
    """What these settings compile to, for a teacher four times as wide: squared error, and the cosine."""
    rows = ("SCALE", "SHIFT", "CA", "CB", "MASK", "CONSTANT", "FROM_ONE", "UPSTREAM")
    types = {**dict.fromkeys(("S", "SQUARE", "FROM_T", "OUT"), "*bf16"), **dict.fromkeys(rows, "*fp32")}
    kind = {"HALVES": 2, "T_HALVES": 1, "HAS_FACTORS": False, "HAS_MASK": False}
    constants = {**tile_constants(width, 4 * width, settings), **kind}
    plain, *converted = format_cases(gram_ds, types, constants, settings)
    cosine = replace(plain, name=f"{plain.name} cosine", constants={**plain.constants, "HAS_FACTORS": True})
    return [plain, *(replace(each, num_stages=stages(settings, True)) for each in converted), cosine]


def cases() -> Iterator[Case]:
    """What the lint compiles."""
    return linted_cases("gram_ds", case)


def _work(given: Config) -> Work:
    depth = given["HALVES"] * given["DS"] + given["T_HALVES"] * given["DT"]
    return Work(operations=2 * given["num_rows"] * given["DS"] * depth)


def timing(width: int, settings: Config, device: torch.device) -> Callable[[], object]:
    """One sweep for a teacher four times as wide."""
    problem = timing_problem(width, 4 * width, device)
    small = torch.zeros(2 * width, width, device=device, dtype=torch.bfloat16), torch.zeros(width, device=device)
    upstream = torch.ones((), device=device)
    return lambda: launch(problem, upstream, None, small, problem.weight, settings)


KERNEL = Kernel(
    name="gram_ds",
    launch=launch,
    widths=WIDTHS,
    candidates=candidates,
    case=case,
    cases=cases,
    timing=timing,
    interpreted=INTERPRETED,
    work={"gram_ds": _work},
)
