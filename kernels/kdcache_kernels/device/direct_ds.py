"""The student's gradient through the residual, a tile of it at a time: the sweep of the backward pass."""

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
from kdcache_kernels.device.sizes import DIRECT_WIDTHS, format_cases, linted_cases, tile_constants, timing_problem
from kdcache_kernels.device.tile import column_pieces, pointer, scaled, token_offsets, value_and_slope
from kdcache_kernels.dispatch import Config
from kdcache_kernels.projection_problem import Problem, TokenRows


@triton.jit(do_not_specialize=["num_rows", "per_batch"])
def direct_ds(
    S, T, SCALE, SHIFT, MASK, W, BIAS, UPSTREAM, OUT, beta,
    num_rows, per_batch, s_batch, s_row, t_row,
    DS: tl.constexpr, DT: tl.constexpr, C0: tl.constexpr, C1: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_N: tl.constexpr,
    IS_SMOOTH: tl.constexpr, HAS_SCALE: tl.constexpr, HAS_SHIFT: tl.constexpr, HAS_MASK: tl.constexpr,
):  # fmt: skip
    """OUT = upstream * G W for one tile of tokens, with G the loss's slope, formed a block of T's columns at a time."""
    rows = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    is_row = rows < num_rows
    s_at = token_offsets(rows, per_batch, s_batch, s_row)
    t_at = rows.to(tl.int64) * t_row
    c0 = tl.arange(0, C0)
    s0 = tl.load(S + s_at[:, None] + c0[None, :], mask=is_row[:, None] & (c0 < DS)[None, :], other=0.0)
    acc0 = tl.zeros((BLOCK_N, C0), tl.float32)
    if C1 > 0:
        c1 = C0 + tl.arange(0, C1)
        s1 = tl.load(S + s_at[:, None] + c1[None, :], mask=is_row[:, None] & (c1 < DS)[None, :], other=0.0)
        acc1 = tl.zeros((BLOCK_N, C1), tl.float32)
    for first in range(0, DT, BLOCK_T):
        cols = first + tl.arange(0, BLOCK_T)
        is_col = cols < DT
        stored = tl.load(T + t_at[:, None] + cols[None, :], mask=is_row[:, None] & is_col[None, :], other=0.0)
        t = scaled(stored.to(tl.float32), SCALE, SHIFT, rows, is_row, HAS_SCALE, HAS_SHIFT)
        w0 = tl.load(W + cols[:, None] * DS + c0[None, :], mask=is_col[:, None] & (c0 < DS)[None, :], other=0.0)
        projected = tl.dot(s0, tl.trans(w0), input_precision="ieee")
        if C1 > 0:
            w1 = tl.load(W + cols[:, None] * DS + c1[None, :], mask=is_col[:, None] & (c1 < DS)[None, :], other=0.0)
            projected = tl.dot(s1, tl.trans(w1), projected, input_precision="ieee")
        bias = tl.load(BIAS + cols, mask=is_col, other=0.0).to(tl.float32)
        residual = tl.where(is_row[:, None] & is_col[None, :], projected + bias[None, :] - t, 0.0)
        _, slope = value_and_slope(residual, beta, IS_SMOOTH)
        slope = slope.to(S.dtype.element_ty)
        acc0 = tl.dot(slope, w0, acc0, input_precision="ieee")
        if C1 > 0:
            acc1 = tl.dot(slope, w1, acc1, input_precision="ieee")
    factor = tl.load(UPSTREAM) * tl.full(rows.shape, 1.0, tl.float32)
    if HAS_MASK:
        factor *= tl.load(MASK + rows, mask=is_row, other=0.0)
    out = OUT + rows.to(tl.int64)[:, None] * DS
    kind: tl.constexpr = OUT.dtype.element_ty
    tl.store(out + c0[None, :], (acc0 * factor[:, None]).to(kind), mask=is_row[:, None] & (c0 < DS)[None, :])
    if C1 > 0:
        tl.store(out + c1[None, :], (acc1 * factor[:, None]).to(kind), mask=is_row[:, None] & (c1 < DS)[None, :])


def launch(problem: Problem, weight: Tensor, upstream: Tensor, kind: str, beta: float, config: Config) -> Tensor:
    """The gradient (N, Ds), contiguous, in the student's dtype.

    Args:
        problem: Tokens and targets.
        weight: (Dt, Ds), rounded, contiguous.
        upstream: scalar with every constant factor in it, float32.
        kind: ``mse`` or ``smooth_l1``.
        beta: Of smooth L1.
        config: ``columns`` (at least Ds), ``block_t``, ``block_n``, ``num_warps``, ``num_stages``.
    """
    student, values = TokenRows(problem.student), problem.values
    depth, width = weight.shape
    c0, c1 = column_pieces(width, config["columns"])
    out = torch.empty((problem.num_tokens, width), dtype=problem.student.dtype, device=values.device)
    run(
        direct_ds, (num_blocks(problem.num_tokens, config["block_n"]),),
        student.tokens, values, pointer(problem.scale, upstream), pointer(problem.shift, upstream),
        pointer(problem.weights, upstream), weight, problem.bias, upstream, out, beta,
        problem.num_tokens, student.per_batch, student.batch_stride, student.row_stride, values.stride(0),
        DS=width, DT=depth, C0=c0, C1=c1, BLOCK_T=config["block_t"], BLOCK_N=config["block_n"],
        IS_SMOOTH=kind == "smooth_l1", HAS_SCALE=problem.scale is not None, HAS_SHIFT=problem.shift is not None,
        HAS_MASK=problem.mask is not None, num_warps=config["num_warps"], num_stages=config["num_stages"],
    )  # fmt: skip
    return out


# Tiles so small that tests at toy sizes launch several programs.
INTERPRETED = {"columns": 1024, "block_t": 32, "block_n": 32, "num_warps": 4, "num_stages": 1}


def candidates(width: int) -> list[dict[str, int]]:
    """Settings for students of this width, best guess first."""
    names = ("columns", "block_t", "block_n", "num_warps", "num_stages")
    sizes = [(64, 128, 8, 2), (64, 64, 8, 2), (64, 64, 4, 2), (32, 64, 8, 2), (32, 32, 8, 2)]
    return [dict(zip(names, (sum(column_pieces(width, 1024)), *size), strict=True)) for size in sizes]


def case(width: int, settings: Config) -> list[Case]:
    """What these settings compile to, for smooth L1 and a teacher twice as wide."""
    types = {
        **dict.fromkeys(("S", "W", "OUT"), "*bf16"),
        **dict.fromkeys(("SCALE", "SHIFT", "MASK", "BIAS", "UPSTREAM"), "*fp32"),
        "beta": "fp32",
    }
    constants = {**tile_constants(width, 2 * width, settings), "IS_SMOOTH": True, "HAS_MASK": False}
    return format_cases(direct_ds, types, constants, settings)


def cases() -> Iterator[Case]:
    """What the lint compiles."""
    return linted_cases("direct_ds", case)


def _work(given: Config) -> Work:
    return Work(operations=2 * 2 * given["num_rows"] * given["DS"] * given["DT"])


def timing(width: int, settings: Config, device: torch.device) -> Callable[[], object]:
    """One sweep for a teacher twice as wide."""
    problem = timing_problem(width, 2 * width, device)
    upstream = torch.ones((), device=device)
    return lambda: launch(problem, problem.weight, upstream, "smooth_l1", 1.0, settings)


KERNEL = Kernel(
    name="direct_ds",
    launch=launch,
    widths=DIRECT_WIDTHS,
    candidates=candidates,
    case=case,
    cases=cases,
    timing=timing,
    interpreted=INTERPRETED,
    work={"direct_ds": _work},
)
