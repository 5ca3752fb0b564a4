"""The cosine loss of every token and the factors of its gradients, with the projection formed a tile at a time."""

# Names that exist only under a constexpr, and launch options, are beyond the type checker.
# pyright: reportPossiblyUnboundVariable=false, reportCallIssue=false, reportArgumentType=false, reportOperatorIssue=false

from collections.abc import Callable, Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from kdcache_kernels.cosine import EPS
from kdcache_kernels.device.case import Case, Work
from kdcache_kernels.device.kernel import Kernel
from kdcache_kernels.device.launching import num_blocks, run
from kdcache_kernels.device.sizes import DIRECT_WIDTHS, format_cases, linted_cases, tile_constants, timing_problem
from kdcache_kernels.device.tile import column_pieces, pointer, scaled, token_offsets
from kdcache_kernels.dispatch import Config
from kdcache_kernels.projection_problem import Problem, TokenRows


@triton.jit(do_not_specialize=["num_rows", "per_batch"])
def cosine_factors(
    S, T, SCALE, SHIFT, MASK, W, BIAS, LOSSES, FACTORS, eps,
    num_rows, per_batch, s_batch, s_row, t_row,
    DS: tl.constexpr, DT: tl.constexpr, C0: tl.constexpr, C1: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_N: tl.constexpr,
    HAS_SCALE: tl.constexpr, HAS_SHIFT: tl.constexpr, HAS_MASK: tl.constexpr,
):  # fmt: skip
    """LOSSES (N,) and FACTORS (2, N), as `kdcache_kernels.cosine` has them."""
    rows = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    is_row = rows < num_rows
    s_at = token_offsets(rows, per_batch, s_batch, s_row)
    t_at = rows.to(tl.int64) * t_row
    c0 = tl.arange(0, C0)
    s0 = tl.load(S + s_at[:, None] + c0[None, :], mask=is_row[:, None] & (c0 < DS)[None, :], other=0.0)
    if C1 > 0:
        c1 = C0 + tl.arange(0, C1)
        s1 = tl.load(S + s_at[:, None] + c1[None, :], mask=is_row[:, None] & (c1 < DS)[None, :], other=0.0)
    pp = tl.zeros((BLOCK_N,), tl.float32)
    pt = tl.zeros((BLOCK_N,), tl.float32)
    tt = tl.zeros((BLOCK_N,), tl.float32)
    for first in range(0, DT, BLOCK_T):
        cols = first + tl.arange(0, BLOCK_T)
        is_col = cols < DT
        stored = tl.load(T + t_at[:, None] + cols[None, :], mask=is_row[:, None] & is_col[None, :], other=0.0)
        t = scaled(stored.to(tl.float32), SCALE, SHIFT, rows, is_row, HAS_SCALE, HAS_SHIFT)
        if HAS_SHIFT:
            t = tl.where(is_col[None, :], t, 0.0)
        w0 = tl.load(W + cols[:, None] * DS + c0[None, :], mask=is_col[:, None] & (c0 < DS)[None, :], other=0.0)
        projected = tl.dot(s0, tl.trans(w0), input_precision="ieee")
        if C1 > 0:
            w1 = tl.load(W + cols[:, None] * DS + c1[None, :], mask=is_col[:, None] & (c1 < DS)[None, :], other=0.0)
            projected = tl.dot(s1, tl.trans(w1), projected, input_precision="ieee")
        projected += tl.load(BIAS + cols, mask=is_col, other=0.0).to(tl.float32)[None, :]
        pp += tl.sum(projected * projected, 1)
        pt += tl.sum(projected * t, 1)
        tt += tl.sum(t * t, 1)
    p_norm = tl.maximum(tl.sqrt(pp), eps)
    both = p_norm * tl.maximum(tl.sqrt(tt), eps)
    cosine = pt / both
    # A norm below eps is a constant to autograd.
    ca = tl.where(tl.sqrt(pp) > eps, cosine / (p_norm * p_norm), 0.0)
    cb = -1.0 / both
    loss = 1.0 - cosine
    if HAS_MASK:
        weight = tl.load(MASK + rows, mask=is_row, other=0.0)
        loss *= weight
        ca *= weight
        cb *= weight
    tl.store(LOSSES + rows, loss, mask=is_row)
    tl.store(FACTORS + rows, ca, mask=is_row)
    tl.store(FACTORS + num_rows + rows, cb, mask=is_row)


def launch(problem: Problem, weight: Tensor, config: Config) -> tuple[Tensor, Tensor]:
    """Losses (N,) and factors (2, N), float32, with the tokens' weights in them.

    Args:
        problem: Tokens and targets.
        weight: (Dt, Ds), rounded, contiguous.
        config: ``columns`` (at least Ds), ``block_t``, ``block_n``, ``num_warps``, ``num_stages``.
    """
    student, values = TokenRows(problem.student), problem.values
    depth, width = weight.shape
    c0, c1 = column_pieces(width, config["columns"])
    losses, factors = (
        torch.empty((*shape, problem.num_tokens), dtype=torch.float32, device=values.device) for shape in ((), (2,))
    )
    run(
        cosine_factors, (num_blocks(problem.num_tokens, config["block_n"]),),
        student.tokens, values, pointer(problem.scale, losses), pointer(problem.shift, losses),
        pointer(problem.weights, losses), weight, problem.bias, losses, factors, EPS,
        problem.num_tokens, student.per_batch, student.batch_stride, student.row_stride, values.stride(0),
        DS=width, DT=depth, C0=c0, C1=c1, BLOCK_T=config["block_t"], BLOCK_N=config["block_n"],
        HAS_SCALE=problem.scale is not None, HAS_SHIFT=problem.shift is not None, HAS_MASK=problem.mask is not None,
        num_warps=config["num_warps"], num_stages=config["num_stages"],
    )  # fmt: skip
    return losses, factors


# Tiles so small that tests at toy sizes launch several programs.
INTERPRETED = {"columns": 1024, "block_t": 32, "block_n": 32, "num_warps": 4, "num_stages": 1}


def candidates(width: int) -> list[dict[str, int]]:
    """Settings for students of this width, best guess first."""
    names = ("columns", "block_t", "block_n", "num_warps", "num_stages")
    sizes = [(64, 128, 8, 2), (64, 64, 8, 2), (32, 64, 8, 2), (32, 32, 8, 2)]
    return [dict(zip(names, (sum(column_pieces(width, 1024)), *size), strict=True)) for size in sizes]


def case(width: int, settings: Config) -> list[Case]:
    """What these settings compile to, for a teacher twice as wide."""
    types = {
        **dict.fromkeys(("S", "W"), "*bf16"),
        **dict.fromkeys(("SCALE", "SHIFT", "MASK", "BIAS", "LOSSES", "FACTORS"), "*fp32"),
        "eps": "fp32",
    }
    constants = {**tile_constants(width, 2 * width, settings), "HAS_MASK": False}
    return format_cases(cosine_factors, types, constants, settings)


def cases() -> Iterator[Case]:
    """What the lint compiles."""
    return linted_cases("cosine_factors", case)


def _work(given: Config) -> Work:
    return Work(operations=2 * given["num_rows"] * given["DS"] * given["DT"])


def timing(width: int, settings: Config, device: torch.device) -> Callable[[], object]:
    """One sweep for a teacher twice as wide."""
    problem = timing_problem(width, 2 * width, device)
    return lambda: launch(problem, problem.weight, settings)


KERNEL = Kernel(
    name="cosine_factors",
    launch=launch,
    widths=DIRECT_WIDTHS,
    candidates=candidates,
    case=case,
    cases=cases,
    timing=timing,
    interpreted=INTERPRETED,
    work={"cosine_factors": _work},
)
