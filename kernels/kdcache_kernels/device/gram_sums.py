"""S^T m T and S^T m S over the tokens in one launch, with the column sums on the way."""

# Names that exist only under a constexpr, and launch options, are beyond the type checker.
# pyright: reportPossiblyUnboundVariable=false, reportCallIssue=false, reportArgumentType=false
# pyright: reportOperatorIssue=false, reportAssignmentType=false

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
import triton
import triton.language as tl
from torch import Tensor

from kdcache_kernels.device.case import Case, Work
from kdcache_kernels.device.kernel import Kernel
from kdcache_kernels.device.launching import num_blocks, run
from kdcache_kernels.device.sizes import WIDTHS, format_cases, linted_cases, tile_constants, timing_problem
from kdcache_kernels.device.tile import POINTERS, column_pieces, pointer, scaled, token_offsets
from kdcache_kernels.dispatch import Config
from kdcache_kernels.projection_problem import Problem, TokenRows

# Partial sums that may lie in memory between this kernel and the next.
_PARTIAL_BYTES = 14_000_000


@triton.jit
def _tile(T, rows, cols, is_col, num_rows, per_batch, t_batch, t_row, IS_FLAT: tl.constexpr):
    """A tile of T as it lies in memory, 0 outside."""
    at = rows.to(tl.int64) * t_row if IS_FLAT else token_offsets(rows, per_batch, t_batch, t_row)
    return tl.load(T + at[:, None] + cols[None, :], mask=(rows < num_rows)[:, None] & is_col[None, :], other=0.0)


@triton.jit
def _sweep(
    S, T, SCALE, SHIFT, MASK, PART, SUM, SQUARE, block_t,
    num_rows, per_batch, s_batch, s_row, t_batch, t_row, tiles_per_split,
    DS: tl.constexpr, DT: tl.constexpr, C0: tl.constexpr, C1: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_N: tl.constexpr, LENGTH: tl.constexpr,
    HAS_SCALE: tl.constexpr, HAS_SHIFT: tl.constexpr, HAS_MASK: tl.constexpr, HAS_SQUARE: tl.constexpr,
    S_IS_FLAT: tl.constexpr, T_IS_FLAT: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """One split's PART (DS, DT) for one block of T's columns and one of S's, and sums and squares of T's columns.

    A tile of S's own type waits in registers, not in the pipeline's shared memory, until its turn: Triton up to 3.8
    gives a buffer that both a product and other arithmetic read one slot too few, and a copy then overwrites what the
    product still reads (triton#6691, triton#7110). The sums of LANES rows are kept apart until the end.
    """
    split = tl.program_id(1)
    block_s = tl.program_id(2)
    cols = block_t * BLOCK_T + tl.arange(0, BLOCK_T)
    is_col = cols < DT
    c0 = block_s * (C0 + C1) + tl.arange(0, C0)
    acc0 = tl.zeros((C0, BLOCK_T), tl.float32)
    if C1 > 0:
        c1 = block_s * (C0 + C1) + C0 + tl.arange(0, C1)
        acc1 = tl.zeros((C1, BLOCK_T), tl.float32)
    t_sum = tl.zeros((LANES, BLOCK_T), tl.float32)
    t_square = tl.zeros((LANES, BLOCK_T), tl.float32)
    first = split * tiles_per_split * BLOCK_N
    # What is converted on its way to the product has a buffer of its own there, and may wait in the pipeline.
    IS_AHEAD: tl.constexpr = T.dtype == S.dtype and not HAS_SCALE and not HAS_SHIFT
    if IS_AHEAD:
        rows = first + tl.arange(0, BLOCK_N)
        ahead = _tile(T, rows, cols, is_col, num_rows, per_batch, t_batch, t_row, T_IS_FLAT)
    tl.assume(tiles_per_split > 0)  # else Triton 3.6 waits after every product of the loop
    for tile in range(tiles_per_split):
        rows = first + tile * BLOCK_N + tl.arange(0, BLOCK_N)
        is_row = rows < num_rows
        if IS_AHEAD:
            right = ahead
            next_rows = tl.where(tile + 1 < tiles_per_split, rows + BLOCK_N, num_rows)
            ahead = _tile(T, next_rows, cols, is_col, num_rows, per_batch, t_batch, t_row, T_IS_FLAT)
        else:
            right = _tile(T, rows, cols, is_col, num_rows, per_batch, t_batch, t_row, T_IS_FLAT)
            if HAS_SCALE or HAS_SHIFT:
                t = scaled(right.to(tl.float32), SCALE, SHIFT, rows, is_row, HAS_SCALE, HAS_SHIFT)
                if HAS_SHIFT:
                    t = tl.where(is_row[:, None], t, 0.0)
                right = t.to(S.dtype.element_ty)
            else:
                right = right.to(S.dtype.element_ty)
        # Sums are of what was rounded: then the loss is that of the rounded targets, with no other error.
        t = right.to(tl.float32)
        weighed = t
        if HAS_MASK:
            weighed = t * tl.load(MASK + rows, mask=is_row, other=0.0)[:, None]
            right = weighed.to(S.dtype.element_ty)
        if block_s == 0:
            t_sum += tl.sum(tl.reshape(weighed, (BLOCK_N // LANES, LANES, BLOCK_T)), 0)
            if HAS_SQUARE:
                t_square += tl.sum(tl.reshape(weighed * t, (BLOCK_N // LANES, LANES, BLOCK_T)), 0)
        s_at = rows.to(tl.int64) * s_row if S_IS_FLAT else token_offsets(rows, per_batch, s_batch, s_row)
        s0 = tl.load(S + s_at[:, None] + c0[None, :], mask=is_row[:, None] & (c0 < DS)[None, :], other=0.0)
        acc0 = tl.dot(tl.trans(s0), right, acc0, input_precision="ieee")
        if C1 > 0:
            s1 = tl.load(S + s_at[:, None] + c1[None, :], mask=is_row[:, None] & (c1 < DS)[None, :], other=0.0)
            acc1 = tl.dot(tl.trans(s1), right, acc1, input_precision="ieee")
    at_split = split.to(tl.int64) * LENGTH
    part = PART + at_split
    tl.store(part + c0[:, None] * DT + cols[None, :], acc0, mask=(c0 < DS)[:, None] & is_col[None, :])
    if C1 > 0:
        tl.store(part + c1[:, None] * DT + cols[None, :], acc1, mask=(c1 < DS)[:, None] & is_col[None, :])
    if block_s == 0:
        tl.store(SUM + at_split + cols, tl.sum(t_sum, 0), mask=is_col)
        if HAS_SQUARE:
            tl.store(SQUARE + at_split + cols, tl.sum(t_square, 0), mask=is_col)


@triton.jit(do_not_specialize=["num_rows", "per_batch", "tiles_per_split"])
def gram_sums(
    S, T, SCALE, SHIFT, MASK, PARTS,
    num_rows, per_batch, s_batch, s_row, t_row, tiles_per_split,
    DS: tl.constexpr, DT: tl.constexpr, C0: tl.constexpr, C1: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_N: tl.constexpr, T_BLOCKS: tl.constexpr, LENGTH: tl.constexpr,
    HAS_SCALE: tl.constexpr, HAS_SHIFT: tl.constexpr, HAS_MASK: tl.constexpr, IS_FLAT: tl.constexpr,
    LANES: tl.constexpr,
):  # fmt: skip
    """Grid: blocks of T's columns and then of S's, splits of the tokens, blocks of the other factor's columns.

    T = scale * values + shift is decoded and rounded to S's type in registers. Splits cover fixed ranges of tokens, so
    every run adds in the same order. PARTS (splits, LENGTH) is laid out as `Sums` says.
    """
    block = tl.program_id(0)
    SS = PARTS + DS * DT
    S_SUM = SS + DS * DS
    T_SUM = S_SUM + DS
    if block < T_BLOCKS:
        _sweep(
            S, T, SCALE, SHIFT, MASK, PARTS, T_SUM, T_SUM + DT, block,
            num_rows, per_batch, s_batch, s_row, 0, t_row, tiles_per_split,
            DS, DT, C0, C1, BLOCK_T, BLOCK_N, LENGTH, HAS_SCALE, HAS_SHIFT, HAS_MASK, True, IS_FLAT, True, LANES,
        )  # fmt: skip
    else:
        _sweep(
            S, S, SCALE, SHIFT, MASK, SS, S_SUM, S_SUM, block - T_BLOCKS,
            num_rows, per_batch, s_batch, s_row, s_batch, s_row, tiles_per_split,
            DS, DS, C0, C1, BLOCK_T, BLOCK_N, LENGTH, False, False, HAS_MASK, False, IS_FLAT, IS_FLAT, LANES,
        )  # fmt: skip


@dataclass(frozen=True)
class Sums:
    """Sums over tokens in one float32 tensor, so that one launch adds those of all splits; m stands for weights.

    One after another: S^T m T (Ds, Dt), S^T m S (Ds, Ds), the sums of m s (Ds,), of m t (Dt,) and of m t^2 (Dt,), and
    zeros up to `length`.

    Args:
        values: (..., `length`).
        width, depth: Ds and Dt.
    """

    values: Tensor
    width: int
    depth: int

    @property
    def sizes(self) -> list[int]:
        """Elements of each part."""
        return [self.width * self.depth, self.width * self.width, self.width, self.depth, self.depth]

    def parts(self) -> list[Tensor]:
        """Views: S^T m T, S^T m S, and the three sums."""
        st, ss, *sums = self.values[..., : sum(self.sizes)].split(self.sizes, dim=-1)
        shape = self.values.shape[:-1]
        return [st.view(*shape, self.width, self.depth), ss.view(*shape, self.width, self.width), *sums]


def length(width: int, depth: int) -> int:
    """Elements that `Sums` take; a multiple of 32, so that every split's begin aligned."""
    return num_blocks(width * (depth + width + 1) + 2 * depth, 32) * 32


def lanes(itemsize: int, config: Config) -> int:
    """Rows of a tile that lie in different threads, if each loads 16 bytes: sums over the others cross no thread.

    The narrower of the two types decides, for Triton gives both tiles its layout. With half as many a sum crosses warps
    in every step of the loop: 350 us instead of 60 for int8 on an H100.
    """
    rows = config["num_warps"] * 32 * 16 // (itemsize * config["block_t"])
    return max(1, min(config["block_n"], rows))


def launch(problem: Problem, config: Config, num_programs: int) -> Sums:
    """Sums of each split of the tokens, (splits, `length`).

    Args:
        problem: Tokens and targets.
        config: ``columns`` (most columns of S in a tile), ``block_t``, ``block_n``, ``num_warps``, ``num_stages``.
        num_programs: Programs that run at a time; the tokens are split so that one wave does it all.
    """
    student, values = TokenRows(problem.student), problem.values
    width, depth, num_rows = problem.student.shape[-1], values.shape[1], problem.num_tokens
    c0, c1 = column_pieces(width, config["columns"])
    t_blocks, s_blocks = num_blocks(depth, config["block_t"]), num_blocks(width, config["block_t"])
    own_blocks = num_blocks(width, c0 + c1)
    num_tiles = num_blocks(num_rows, config["block_n"])
    most = max(1, _PARTIAL_BYTES // (width * (depth + width) * 4))
    splits = max(1, min(num_tiles, most, num_programs // ((t_blocks + s_blocks) * own_blocks)))
    per_split = num_blocks(num_tiles, splits)
    splits = num_blocks(num_tiles, per_split)
    size = length(width, depth)
    parts = torch.empty((splits, size), dtype=torch.float32, device=values.device)
    sums = Sums(parts, width, depth)
    if parts.device.type == "cpu":
        # Nobody needs the sums over what pads a split; but numpy, which interprets them, warns of what lies there.
        parts[:, sum(sums.sizes) :].zero_()
    run(
        gram_sums, (t_blocks + s_blocks, splits, own_blocks),
        student.tokens, values, pointer(problem.scale, parts), pointer(problem.shift, parts),
        pointer(problem.weights, parts), parts,
        num_rows, student.per_batch, student.batch_stride, student.row_stride, values.stride(0), per_split,
        DS=width, DT=depth, C0=c0, C1=c1, BLOCK_T=config["block_t"], BLOCK_N=config["block_n"], T_BLOCKS=t_blocks,
        LENGTH=size, HAS_SCALE=problem.scale is not None, HAS_SHIFT=problem.shift is not None,
        HAS_MASK=problem.mask is not None, IS_FLAT=student.per_batch == num_rows,
        LANES=lanes(min(student.tokens.element_size(), values.element_size()), config),
        num_warps=config["num_warps"], num_stages=config["num_stages"],
    )  # fmt: skip
    return sums


# Tiles so small that tests at toy sizes launch several programs.
INTERPRETED = {"columns": 48, "block_t": 32, "block_n": 32, "num_warps": 4, "num_stages": 1}


def candidates(width: int) -> list[dict[str, int]]:
    """Settings for students of this width, best guess first."""
    if width <= 256:
        sizes = [
            (256, 128, 64, 8, 3),
            (256, 64, 64, 8, 3),
            (256, 128, 64, 8, 2),
            (256, 64, 64, 4, 3),
            (256, 64, 32, 8, 3),
        ]
    else:
        sizes = [(192, 128, 64, 8, 3), (256, 128, 64, 8, 3), (256, 64, 64, 8, 3), (256, 64, 32, 8, 3)]
    names = ("columns", "block_t", "block_n", "num_warps", "num_stages")
    return [dict(zip(names, size, strict=True)) for size in sizes]


def case(width: int, settings: Config) -> list[Case]:
    """What these settings compile to, for a teacher four times as wide."""
    pointers = ("SCALE", "SHIFT", "MASK", "PARTS")
    types = {"S": "*bf16", **dict.fromkeys(pointers, "*fp32"), "tiles_per_split": "i32"}
    blocks = {"T_BLOCKS": num_blocks(4 * width, settings["block_t"]), "LENGTH": length(width, 4 * width)}
    kind = {"HAS_MASK": False, "IS_FLAT": True}
    made = format_cases(gram_sums, types, {**tile_constants(width, 4 * width, settings), **blocks, **kind}, settings)
    sizes = [1 if each.types["T"] == POINTERS["int8"] else 2 for each in made]
    return [
        replace(each, constants={**each.constants, "LANES": lanes(size, settings)})
        for each, size in zip(made, sizes, strict=True)
    ]


def cases() -> Iterator[Case]:
    """What the lint compiles."""
    return linted_cases("gram_sums", case)


def _work(given: Config) -> Work:
    return Work(operations=2 * given["num_rows"] * given["DS"] * (given["DT"] + given["DS"]))


def timing(width: int, settings: Config, device: torch.device) -> Callable[[], object]:
    """One sweep for a teacher four times as wide."""
    problem = timing_problem(width, 4 * width, device)
    num_programs = torch.cuda.get_device_properties(device).multi_processor_count
    return lambda: launch(problem, settings, num_programs)


KERNEL = Kernel(
    name="gram_sums",
    launch=launch,
    widths=WIDTHS,
    candidates=candidates,
    case=case,
    cases=cases,
    timing=timing,
    interpreted=INTERPRETED,
    work={"gram_sums": _work},
)
