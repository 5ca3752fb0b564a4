"""The small matrices around the Gram form, each in one launch: loss and parameter gradients, and what dS multiplies."""

# Names that exist only under a constexpr, and launch options, are beyond the type checker.
# pyright: reportPossiblyUnboundVariable=false, reportCallIssue=false, reportArgumentType=false, reportOperatorIssue=false

from collections.abc import Callable, Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from kdcache_kernels.device.case import Case, Work
from kdcache_kernels.device.gram_sums import Sums, length
from kdcache_kernels.device.kernel import Kernel
from kdcache_kernels.device.launching import num_blocks, run
from kdcache_kernels.device.sizes import WIDTHS, linted_cases, timing_problem
from kdcache_kernels.dispatch import Config
from kdcache_kernels.projection_problem import Problem

# Splits whose loads are under way at a time.
_AT_ONCE = 16


@triton.jit(do_not_specialize=["splits"])
def gram_reduce(PARTS, OUT, splits, LENGTH: tl.constexpr, BLOCK: tl.constexpr, AT_ONCE: tl.constexpr):
    """OUT (LENGTH,): the sum of PARTS (splits, LENGTH), AT_ONCE of them loaded together, always in the same order."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float32)
    for first in range(0, splits, AT_ONCE):
        split = first + tl.arange(0, AT_ONCE)
        is_in = (split < splits)[:, None] & (at < LENGTH)[None, :]
        total += tl.sum(tl.load(PARTS + split.to(tl.int64)[:, None] * LENGTH + at[None, :], mask=is_in, other=0.0), 0)
    tl.store(OUT + at, total, mask=at < LENGTH)


@triton.jit
def gram_finish(
    SUMS, W, BIAS, COUNT, GRAD_W, GRAD_B, LOSS,
    DS: tl.constexpr, DT: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """dW (DT, DS), db and this tile's share of the loss, from the sums over all tokens. W is (DT, DS)."""
    block_s = tl.program_id(0)
    block_t = tl.program_id(1)
    SS = SUMS + DS * DT
    S_SUM = SS + DS * DS
    T_SUM = S_SUM + DS
    T_SQUARE = T_SUM + DT
    s_cols = block_s * BLOCK_S + tl.arange(0, BLOCK_S)
    t_cols = block_t * BLOCK_T + tl.arange(0, BLOCK_T)
    is_s, is_t = s_cols < DS, t_cols < DT
    is_in = is_s[:, None] & is_t[None, :]
    ss_w = tl.zeros((BLOCK_S, BLOCK_T), tl.float32)
    sum_w = tl.zeros((BLOCK_K, BLOCK_T), tl.float32)
    for first in range(0, DS, BLOCK_K):
        ks = first + tl.arange(0, BLOCK_K)
        is_k = ks < DS
        # S^T S is symmetric: its columns are read as rows.
        ss = tl.load(SS + ks[:, None] * DS + s_cols[None, :], mask=is_k[:, None] & is_s[None, :], other=0.0)
        w = tl.load(W + t_cols[:, None] * DS + ks[None, :], mask=is_t[:, None] & is_k[None, :], other=0.0)
        w = tl.trans(w).to(tl.float32)
        # W is exact in the 11 bits of TF32, and three products give S^T S 22 of them.
        ss_w = tl.dot(tl.trans(ss), w, ss_w, input_precision=PRECISION)
        if block_s == 0:
            sum_w += tl.load(S_SUM + ks, mask=is_k, other=0.0)[:, None] * w
    st = tl.load(SUMS + s_cols[:, None] * DT + t_cols[None, :], mask=is_in, other=0.0)
    own_w = tl.load(W + t_cols[None, :] * DS + s_cols[:, None], mask=is_in, other=0.0).to(tl.float32)
    bias = tl.load(BIAS + t_cols, mask=is_t, other=0.0).to(tl.float32)
    s_sum = tl.load(S_SUM + s_cols, mask=is_s, other=0.0)
    count = tl.load(COUNT)
    # Without a token the loss is 0 and has no gradient.
    per_element = tl.where(count > 0, 1.0 / tl.where(count > 0, count, 1.0), 0.0) / DT
    grad = (ss_w + s_sum[:, None] * bias[None, :] - st) * (2.0 * per_element)
    tl.store(GRAD_W + t_cols[None, :] * DS + s_cols[:, None], grad, mask=is_in)
    loss = tl.sum(tl.sum(own_w * (ss_w - 2.0 * st), 1), 0)
    if block_s == 0:
        t_sum = tl.load(T_SUM + t_cols, mask=is_t, other=0.0)
        projected = tl.sum(sum_w, 0)
        tl.store(GRAD_B + t_cols, (projected + count * bias - t_sum) * (2.0 * per_element), mask=is_t)
        ones = tl.load(T_SQUARE + t_cols, mask=is_t, other=0.0) + 2.0 * bias * (projected - t_sum)
        loss += tl.sum(tl.where(is_t, ones + count * bias * bias, 0.0), 0)
    tl.store(LOSS + block_s * tl.num_programs(1) + block_t, loss * per_element)


@triton.jit
def gram_prepare(
    W, BIAS, SQUARE, CONSTANT,
    DS: tl.constexpr, DT: tl.constexpr, BLOCK: tl.constexpr, BLOCK_K: tl.constexpr, HALVES: tl.constexpr,
):  # fmt: skip
    """SQUARE = W^T W / 16 in W's type, its rounding error below it as a second half, and CONSTANT = W^T bias.

    The 16 keeps the squares of large weights in float16's range; `gram_ds` takes it back. The last programs of the
    grid's second axis make CONSTANT: no tile that a product reads may serve other arithmetic too (triton#7110).
    """
    rows = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    is_row = rows < DS
    if tl.program_id(1) == tl.num_programs(1) - 1:
        constant = tl.zeros((BLOCK,), tl.float32)
        for first in range(0, DT, BLOCK_K):
            ks = first + tl.arange(0, BLOCK_K)
            is_k = ks < DT
            w = tl.load(W + ks[:, None] * DS + rows[None, :], mask=is_k[:, None] & is_row[None, :], other=0.0)
            bias = tl.load(BIAS + ks, mask=is_k, other=0.0).to(tl.float32)
            constant += tl.sum(w.to(tl.float32) * bias[:, None], 0)
        tl.store(CONSTANT + rows, constant, mask=is_row)
    else:
        cols = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        is_col = cols < DS
        square = tl.zeros((BLOCK, BLOCK), tl.float32)
        for first in range(0, DT, BLOCK_K):
            ks = first + tl.arange(0, BLOCK_K)
            is_k = ks < DT
            left = tl.load(W + ks[:, None] * DS + rows[None, :], mask=is_k[:, None] & is_row[None, :], other=0.0)
            right = tl.load(W + ks[:, None] * DS + cols[None, :], mask=is_k[:, None] & is_col[None, :], other=0.0)
            square = tl.dot(tl.trans(left), right, square, input_precision="ieee")
        is_in = is_row[:, None] & is_col[None, :]
        at = rows[:, None] * DS + cols[None, :]
        square *= 0.0625
        high = square.to(SQUARE.dtype.element_ty)
        tl.store(SQUARE + at, high, mask=is_in)
        if HALVES == 2:
            tl.store(SQUARE + DS * DS + at, (square - high.to(tl.float32)).to(SQUARE.dtype.element_ty), mask=is_in)


def reduce(parts: Sums, config: Config) -> Sums:
    """The sums over all splits, (`length`,)."""
    splits, size = parts.values.shape
    total = torch.empty(size, dtype=torch.float32, device=parts.values.device)
    run(
        gram_reduce,
        (num_blocks(size, config["reduce"]),),
        parts.values,
        total,
        splits,
        LENGTH=size,
        BLOCK=config["reduce"],
        AT_ONCE=_AT_ONCE,
        num_warps=4,
    )
    return Sums(total, parts.width, parts.depth)


def finish(problem: Problem, weight: Tensor, sums: Sums, config: Config) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, and its gradients for weight and bias, float32.

    Args:
        problem: For its bias and weights of tokens.
        weight: (Dt, Ds), rounded, contiguous.
        sums: Over all tokens.
        config: ``finish_s``, ``finish_t``, ``finish_k`` (tile sizes), ``num_warps``.
    """
    depth, width = weight.shape
    grid = num_blocks(width, config["finish_s"]), num_blocks(depth, config["finish_t"])

    def empty(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.float32, device=weight.device)

    grad_weight, grad_bias, shares = empty(depth, width), empty(depth), empty(grid[0] * grid[1])
    run(
        gram_finish, grid,
        sums.values, weight, problem.bias, problem.count(), grad_weight, grad_bias, shares,
        DS=width, DT=depth, BLOCK_S=config["finish_s"], BLOCK_T=config["finish_t"], BLOCK_K=config["finish_k"],
        PRECISION="tf32x3" if weight.dtype.itemsize == 2 else "ieee", num_warps=config["num_warps"],
    )  # fmt: skip
    return shares.sum(), grad_weight, grad_bias


def prepare(weight: Tensor, bias: Tensor, config: Config) -> tuple[Tensor, Tensor]:
    """W^T W / 16 as (halves * Ds, Ds) in W's dtype, and W^T bias (Ds,) float32. float32 has one half, 16 bits two."""
    depth, width = weight.shape
    halves = 2 if weight.dtype.itemsize == 2 else 1
    square = torch.empty((halves * width, width), dtype=weight.dtype, device=weight.device)
    constant = torch.empty(width, dtype=torch.float32, device=weight.device)
    blocks = num_blocks(width, config["prepare"])
    run(
        gram_prepare, (blocks, blocks + 1),
        weight, bias, square, constant,
        DS=width, DT=depth, BLOCK=config["prepare"], BLOCK_K=config["prepare_k"], HALVES=halves,
        num_warps=config["num_warps"],
    )  # fmt: skip
    return square, constant


# Tiles so small that tests at toy sizes launch several programs.
INTERPRETED = {
    "reduce": 1024,
    "finish_s": 32,
    "finish_t": 32,
    "finish_k": 16,
    "prepare": 32,
    "prepare_k": 32,
    "num_warps": 4,
}


def candidates(width: int) -> list[dict[str, int]]:
    """Settings, best guess first."""
    names = ("reduce", "finish_s", "finish_t", "finish_k", "prepare", "prepare_k", "num_warps")
    sizes = [(256, 32, 32, 32, 32, 128, 4), (256, 32, 64, 32, 32, 64, 4), (256, 64, 32, 32, 64, 64, 4)]
    return [dict(zip(names, size, strict=True)) for size in sizes]


def case(width: int, settings: Config) -> list[Case]:
    """What these settings compile to, for a teacher four times as wide."""
    depth = 4 * width
    names = ("SUMS", "BIAS", "COUNT", "GRAD_W", "GRAD_B", "LOSS")
    finish_tile = {f"BLOCK_{name}": settings[f"finish_{name.lower()}"] for name in ("S", "T", "K")}
    size = {"DS": width, "DT": depth}
    return [
        Case(
            name=f"gram_reduce {width}->{depth}",
            kernel=gram_reduce,
            types={"PARTS": "*fp32", "OUT": "*fp32", "splits": "i32"},
            constants={"LENGTH": length(width, depth), "BLOCK": settings["reduce"], "AT_ONCE": _AT_ONCE},
            num_warps=4,
            num_stages=3,
            ragged=frozenset(("splits",)),
            has_products=False,
        ),
        Case(
            name=f"gram_finish {width}->{depth}",
            kernel=gram_finish,
            types={"W": "*bf16", **dict.fromkeys(names, "*fp32")},
            constants={**size, **finish_tile, "PRECISION": "tf32x3"},
            num_warps=settings["num_warps"],
            num_stages=3,
            has_products=False,  # tiles of 32 rows get HMMA, and more programs count for more (H100: 9 against 15 us)
        ),
        Case(
            name=f"gram_prepare {width}->{depth}",
            kernel=gram_prepare,
            types={"W": "*bf16", "BIAS": "*fp32", "SQUARE": "*bf16", "CONSTANT": "*fp32"},
            constants={**size, "BLOCK": settings["prepare"], "BLOCK_K": settings["prepare_k"], "HALVES": 2},
            num_warps=settings["num_warps"],
            num_stages=3,
            has_products=False,  # as above
        ),
    ]


def cases() -> Iterator[Case]:
    """What the lint compiles."""
    return linted_cases("gram_small", case)


def _reduce_work(given: Config) -> Work:
    return Work(turns=num_blocks(given["splits"], given["AT_ONCE"]))


def _finish_work(given: Config) -> Work:
    # Three products of TF32 for one of float32.
    return Work(operations=3 * 2 * given["DT"] * given["DS"] ** 2)


def _prepare_work(given: Config) -> Work:
    return Work(operations=2 * given["DT"] * given["DS"] ** 2)


def timing(width: int, settings: Config, device: torch.device) -> Callable[[], object]:
    """All three kernels for a teacher four times as wide, after the tokens were summed in 16 parts."""
    problem = timing_problem(width, 4 * width, device)
    parts = Sums(torch.randn(16, length(width, 4 * width), device=device), width, 4 * width)

    def run() -> object:
        made = finish(problem, problem.weight, reduce(parts, settings), settings)
        return made, prepare(problem.weight, problem.bias, settings)

    return run


KERNEL = Kernel(
    name="gram_small",
    launch=finish,
    widths=WIDTHS,
    candidates=candidates,
    case=case,
    cases=cases,
    timing=timing,
    interpreted=INTERPRETED,
    work={"gram_reduce": _reduce_work, "gram_finish": _finish_work, "gram_prepare": _prepare_work},
)
