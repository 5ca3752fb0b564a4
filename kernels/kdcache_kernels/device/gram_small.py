"""The small matrices around the Gram form, each in one launch: loss and parameter gradients, and what dS multiplies."""

# Names that exist only under a constexpr, and launch options, are beyond the type checker.
# pyright: reportPossiblyUnboundVariable=false, reportCallIssue=false, reportArgumentType=false, reportOperatorIssue=false

from collections.abc import Callable, Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from kdcache_kernels.device.case import Case
from kdcache_kernels.device.gram_sums import PartialSums
from kdcache_kernels.device.sizes import WIDTHS, linted_cases, timing_problem
from kdcache_kernels.dispatch import Config
from kdcache_kernels.projection_problem import Problem

__all__ = ["WIDTHS"]


@triton.jit(do_not_specialize=["splits"])
def gram_finish(
    ST, T_SUM, T_SQUARE, SS, S_SUM, W, BIAS, COUNT, INVERSE, GRAD_W, GRAD_B, LOSS, splits,
    DS: tl.constexpr, DT: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Sums the splits of S^T T and finishes dW (DT, DS), db and this tile's share of the loss. W is (DT, DS)."""
    block_s = tl.program_id(0)
    block_t = tl.program_id(1)
    s_cols = block_s * BLOCK_S + tl.arange(0, BLOCK_S)
    t_cols = block_t * BLOCK_T + tl.arange(0, BLOCK_T)
    is_s, is_t = s_cols < DS, t_cols < DT
    is_in = is_s[:, None] & is_t[None, :]
    st = tl.zeros((BLOCK_S, BLOCK_T), tl.float32)
    t_sum = tl.zeros((BLOCK_T,), tl.float32)
    t_square = tl.zeros((BLOCK_T,), tl.float32)
    part = ST + s_cols[:, None] * DT + t_cols[None, :]
    for split in range(splits):
        st += tl.load(part, mask=is_in, other=0.0)
        t_sum += tl.load(T_SUM + split * DT + t_cols, mask=is_t, other=0.0)
        t_square += tl.load(T_SQUARE + split * DT + t_cols, mask=is_t, other=0.0)
        part += DS * DT
    ss_w = tl.zeros((BLOCK_S, BLOCK_T), tl.float32)
    sum_w = tl.zeros((BLOCK_T,), tl.float32)
    for first in range(0, DS, BLOCK_K):
        ks = first + tl.arange(0, BLOCK_K)
        is_k = ks < DS
        ss = tl.load(SS + s_cols[:, None] * DS + ks[None, :], mask=is_s[:, None] & is_k[None, :], other=0.0)
        w = tl.load(W + t_cols[None, :] * DS + ks[:, None], mask=is_k[:, None] & is_t[None, :], other=0.0)
        w = w.to(tl.float32)
        ss_w = tl.dot(ss, w, ss_w, input_precision="ieee")
        sum_w += tl.sum(tl.load(S_SUM + ks, mask=is_k, other=0.0)[:, None] * w, 0)
    own_w = tl.load(W + t_cols[None, :] * DS + s_cols[:, None], mask=is_in, other=0.0).to(tl.float32)
    bias = tl.load(BIAS + t_cols, mask=is_t, other=0.0).to(tl.float32)
    s_sum = tl.load(S_SUM + s_cols, mask=is_s, other=0.0)
    count = tl.load(COUNT)
    per_element = tl.load(INVERSE) / DT
    grad = (ss_w + s_sum[:, None] * bias[None, :] - st) * (2.0 * per_element)
    tl.store(GRAD_W + t_cols[None, :] * DS + s_cols[:, None], grad, mask=is_in)
    loss = tl.sum(tl.sum(own_w * (ss_w - 2.0 * st), 1), 0)
    if block_s == 0:
        tl.store(GRAD_B + t_cols, (sum_w + count * bias - t_sum) * (2.0 * per_element), mask=is_t)
        ones = t_square + 2.0 * bias * (sum_w - t_sum) + count * bias * bias
        loss += tl.sum(tl.where(is_t, ones, 0.0), 0)
    tl.store(LOSS + block_s * tl.num_programs(1) + block_t, loss * per_element)


@triton.jit
def gram_prepare(
    W, BIAS, SQUARE, CONSTANT,
    DS: tl.constexpr, DT: tl.constexpr, BLOCK: tl.constexpr, BLOCK_K: tl.constexpr, HALVES: tl.constexpr,
):  # fmt: skip
    """SQUARE = W^T W / 16 in W's type, its rounding error below it as a second half, and CONSTANT = W^T bias.

    The 16 keeps the squares of large weights in float16's range; `gram_ds` takes it back.
    """
    rows = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    cols = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    is_row, is_col = rows < DS, cols < DS
    square = tl.zeros((BLOCK, BLOCK), tl.float32)
    constant = tl.zeros((BLOCK,), tl.float32)
    for first in range(0, DT, BLOCK_K):
        ks = first + tl.arange(0, BLOCK_K)
        is_k = ks < DT
        left = tl.load(W + ks[:, None] * DS + rows[None, :], mask=is_k[:, None] & is_row[None, :], other=0.0)
        right = tl.load(W + ks[:, None] * DS + cols[None, :], mask=is_k[:, None] & is_col[None, :], other=0.0)
        square = tl.dot(tl.trans(left), right, square, input_precision="ieee")
        bias = tl.load(BIAS + ks, mask=is_k, other=0.0).to(tl.float32)
        constant += tl.sum(left.to(tl.float32) * bias[:, None], 0)
    is_in = is_row[:, None] & is_col[None, :]
    at = rows[:, None] * DS + cols[None, :]
    square *= 0.0625
    high = square.to(SQUARE.dtype.element_ty)
    tl.store(SQUARE + at, high, mask=is_in)
    if HALVES == 2:
        tl.store(SQUARE + DS * DS + at, (square - high.to(tl.float32)).to(SQUARE.dtype.element_ty), mask=is_in)
    if tl.program_id(1) == 0:
        tl.store(CONSTANT + rows, constant, mask=is_row)


def finish(problem: Problem, weight: Tensor, sums: PartialSums, config: Config) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, and its gradients for weight and bias, float32.

    Args:
        problem: For its bias and weights of tokens.
        weight: (Dt, Ds), rounded, contiguous.
        sums: Of the tokens.
        config: ``finish_s``, ``finish_t``, ``finish_k`` (tile sizes), ``num_warps``.
    """
    depth, width = weight.shape
    grid = triton.cdiv(width, config["finish_s"]), triton.cdiv(depth, config["finish_t"])

    def empty(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.float32, device=weight.device)

    grad_weight, grad_bias, shares = empty(depth, width), empty(depth), empty(grid[0] * grid[1])
    gram_finish[grid](
        sums.st, sums.t_sum, sums.t_square, sums.ss.sum(0), sums.s_sum.sum(0), weight, problem.bias,
        problem.count(), problem.inverse_count(), grad_weight, grad_bias, shares, sums.st.shape[0],
        DS=width, DT=depth, BLOCK_S=config["finish_s"], BLOCK_T=config["finish_t"], BLOCK_K=config["finish_k"],
        num_warps=config["num_warps"],
    )  # fmt: skip
    return shares.sum(), grad_weight, grad_bias


def prepare(weight: Tensor, bias: Tensor, config: Config) -> tuple[Tensor, Tensor]:
    """W^T W / 16 as (halves * Ds, Ds) in W's dtype, and W^T bias (Ds,) float32. float32 has one half, 16 bits two."""
    depth, width = weight.shape
    halves = 2 if weight.dtype.itemsize == 2 else 1
    square = torch.empty((halves * width, width), dtype=weight.dtype, device=weight.device)
    constant = torch.empty(width, dtype=torch.float32, device=weight.device)
    blocks = triton.cdiv(width, config["prepare"])
    gram_prepare[(blocks, blocks)](
        weight, bias, square, constant,
        DS=width, DT=depth, BLOCK=config["prepare"], BLOCK_K=config["prepare"], HALVES=halves,
        num_warps=config["num_warps"],
    )  # fmt: skip
    return square, constant


# Tiles so small that tests at toy sizes launch several programs.
INTERPRETED = {"finish_s": 32, "finish_t": 32, "finish_k": 16, "prepare": 32, "num_warps": 4}


def candidates(width: int) -> list[dict[str, int]]:
    """Settings, best guess first."""
    names = ("finish_s", "finish_t", "finish_k", "prepare", "num_warps")
    return [dict(zip(names, sizes, strict=True)) for sizes in ((64, 32, 16, 64, 4), (32, 32, 16, 32, 4))]


def case(width: int, settings: Config) -> list[Case]:
    """What these settings compile to, for a teacher four times as wide."""
    depth = 4 * width
    names = ("ST", "T_SUM", "T_SQUARE", "SS", "S_SUM", "BIAS", "COUNT", "INVERSE", "GRAD_W", "GRAD_B", "LOSS")
    finish_tile = {f"BLOCK_{name}": settings[f"finish_{name.lower()}"] for name in ("S", "T", "K")}
    size = {"DS": width, "DT": depth}
    return [
        Case(
            name=f"gram_finish {width}->{depth}",
            kernel=gram_finish,
            types={"W": "*bf16", **dict.fromkeys(names, "*fp32"), "splits": "i32"},
            constants={**size, **finish_tile},
            num_warps=settings["num_warps"],
            num_stages=3,
            ragged=frozenset(("splits",)),
            has_products=False,  # float32 products of small matrices run on the ordinary units
        ),
        Case(
            name=f"gram_prepare {width}->{depth}",
            kernel=gram_prepare,
            types={"W": "*bf16", "BIAS": "*fp32", "SQUARE": "*bf16", "CONSTANT": "*fp32"},
            constants={**size, "BLOCK": settings["prepare"], "BLOCK_K": settings["prepare"], "HALVES": 2},
            num_warps=settings["num_warps"],
            num_stages=3,
        ),
    ]


def cases() -> Iterator[Case]:
    """What the lint compiles."""
    return linted_cases("gram_small", case)


def timing(width: int, settings: Config, device: torch.device) -> Callable[[], object]:
    """Both kernels for a teacher four times as wide, after the tokens were summed in 16 parts."""
    problem = timing_problem(width, 4 * width, device)
    sums = PartialSums(*(torch.zeros(16, *size, device=device) for size in _sizes(width, 4 * width)))
    return lambda: (finish(problem, problem.weight, sums, settings), prepare(problem.weight, problem.bias, settings))


def _sizes(width: int, depth: int) -> list[tuple[int, ...]]:
    return [(width, depth), (depth,), (depth,), (width, width), (width,)]
