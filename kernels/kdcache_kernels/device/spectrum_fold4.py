"""Spectra of tokens whose width is a multiple of 4: two symmetric folds, then four products of a quarter's size.

|X_k| does not see half a sample's shift of the origin, and with it x[n] pairs with x[D-1-n] and, one level down, n with
D/2-1-n: even and odd bins, cosine and sine parts, each become one (D/4) x (D/4) product. The bin at D/2 is a plain
alternating sum.
"""

# Triton's launch options, indexing and constexprs are beyond the type checker.
# pyright: reportCallIssue=false, reportArgumentType=false, reportPossiblyUnboundVariable=false

import functools
import math
from collections.abc import Callable, Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from kdcache_kernels.device.case import Case, Work
from kdcache_kernels.device.kernel import Kernel
from kdcache_kernels.device.launching import num_blocks, power_of_two, run
from kdcache_kernels.device.spectrum_tile import (
    count_bins,
    normaliser,
    power_of_two_scale,
    refuse_capture,
    sizes,
    store_bandwidth,
)
from kdcache_kernels.device.tile import token_offsets
from kdcache_kernels.dispatch import Config, read_table


@triton.jit
def _folded(base, is_row, scale, entries, M: tl.constexpr):
    """Entries of a quarter, folded twice: operands of even cosines, even sines, odd cosines, odd sines."""
    mask = is_row[:, None] & (entries < M)[None, :]
    first = tl.load(base + entries[None, :], mask=mask, other=0.0).to(tl.float32)
    fourth = tl.load(base + (4 * M - 1 - entries)[None, :], mask=mask, other=0.0).to(tl.float32)
    outer_sum = (first + fourth) * scale[:, None]
    outer_difference = (first - fourth) * scale[:, None]
    second = tl.load(base + (2 * M - 1 - entries)[None, :], mask=mask, other=0.0).to(tl.float32)
    third = tl.load(base + (2 * M + entries)[None, :], mask=mask, other=0.0).to(tl.float32)
    inner_sum = (second + third) * scale[:, None]
    inner_difference = (second - third) * scale[:, None]
    return (
        (outer_sum + inner_sum).to(tl.float16),
        (outer_difference - inner_difference).to(tl.float16),
        (outer_sum - inner_sum).to(tl.float16),
        (outer_difference + inner_difference).to(tl.float16),
    )


@triton.jit
def spectrum_fold4(
    X, MATRICES, LEVELS, PARTIAL, BANDWIDTH, num_tokens, per_batch, batch_stride, row_stride,
    M: tl.constexpr, K0: tl.constexpr, K1: tl.constexpr, COLUMNS: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_BINS: tl.constexpr, NUM_LEVELS: tl.constexpr, LEVEL_COLUMNS: tl.constexpr, FOLD: tl.constexpr,
):  # fmt: skip
    """Grid: tiles of tokens. A tile's sum of normalised energies of bins 0 .. 2M, and its bandwidths.

    MATRICES is (4, K0 + K1, COLUMNS), zero beyond M. A quarter is held in two pieces, K0 and K1, so that 192 takes
    128 + 64 and only one piece is in registers while it is built.
    """
    program = tl.program_id(0)
    rows = program * BLOCK_M + tl.arange(0, BLOCK_M)
    is_row = rows < num_tokens
    base = X + token_offsets(rows, per_batch, batch_stride, row_stride)[:, None]
    energy = tl.zeros((BLOCK_M,), tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    alternating = tl.zeros((BLOCK_M,), tl.float32)
    for start in range(0, 4 * M, 64):
        channels = start + tl.arange(0, 64)
        x = tl.load(base + channels[None, :], mask=is_row[:, None] & (channels < 4 * M)[None, :], other=0.0)
        x = x.to(tl.float32)
        energy += tl.sum(x * x, 1)
        total += tl.sum(x, 1)
        alternating += tl.sum(tl.where((channels % 2 == 0)[None, :], x, -x), 1)
    scale = power_of_two_scale(energy, 4 * M)
    inverse = normaliser(energy, scale, 4 * M)
    dc = total * scale * (total * scale) * inverse
    nyquist = alternating * scale * (alternating * scale) * inverse

    entries = tl.arange(0, K0)
    even_cos, even_sin, odd_cos, odd_sin = _folded(base, is_row, scale, entries, M)
    if K1 > 0:
        # Else the compiler loads both pieces at once and spills.
        tl.debug_barrier()
        more = K0 + tl.arange(0, K1)
        even_cos1, even_sin1, odd_cos1, odd_sin1 = _folded(base, is_row, scale, more, M)
    SIZE: tl.constexpr = (K0 + K1) * COLUMNS
    partial = PARTIAL + program.to(tl.int64) * (2 * M + 1)
    passed = tl.zeros((BLOCK_M,), tl.float32)
    counts = tl.zeros((BLOCK_M, LEVEL_COLUMNS), tl.int32)
    for start in range(0, M, BLOCK_BINS):
        pairs = start + tl.arange(0, BLOCK_BINS)
        at = MATRICES + entries[:, None] * COLUMNS + pairs[None, :]
        part0 = tl.dot(even_cos, tl.load(at))
        part1 = tl.dot(even_sin, tl.load(at + SIZE))
        part2 = tl.dot(odd_cos, tl.load(at + 2 * SIZE))
        part3 = tl.dot(odd_sin, tl.load(at + 3 * SIZE))
        if K1 > 0:
            at = MATRICES + more[:, None] * COLUMNS + pairs[None, :]
            part0 = tl.dot(even_cos1, tl.load(at), part0)
            part1 = tl.dot(even_sin1, tl.load(at + SIZE), part1)
            part2 = tl.dot(odd_cos1, tl.load(at + 2 * SIZE), part2)
            part3 = tl.dot(odd_sin1, tl.load(at + 3 * SIZE), part3)
        even = (part0 * part0 + part1 * part1) * inverse[:, None]
        odd = (part2 * part2 + part3 * part3) * inverse[:, None]
        tl.store(partial + 2 * pairs, tl.sum(even, 0), mask=pairs < M)
        tl.store(partial + 2 * pairs + 1, tl.sum(odd, 0), mask=pairs < M)
        through_odd = passed[:, None] + tl.cumsum(even + odd, 1)
        counts = count_bins(counts, LEVELS, through_odd, dc, 2 * pairs + 1, 4 * M, NUM_LEVELS, FOLD)
        counts = count_bins(counts, LEVELS, through_odd - odd, dc, 2 * pairs, 4 * M, NUM_LEVELS, FOLD)
        passed += tl.sum(even + odd, 1)
    tl.store(partial + 2 * M, tl.sum(nyquist, 0))
    store_bandwidth(BANDWIDTH, counts, energy, rows, num_tokens, NUM_LEVELS)


def launch(tokens: Tensor, levels: Tensor, fold: bool, config: Config) -> tuple[Tensor, Tensor]:
    """Run it.

    Args:
        tokens: (B, L, D), D a multiple of 4, channels side by side.
        levels: (num_levels,), float32, on the device.
        fold: Which bins' bandwidth.
        config: ``block_m``, ``block_bins``, ``num_warps``, ``num_stages``.

    Returns: sums of bins 0 .. D / 2 (tiles, D / 2 + 1), float32; bandwidths (B * L, num_levels), int32.
    """
    num_tokens, per_batch, batch_stride, row_stride = sizes(tokens)
    quarter = tokens.shape[-1] // 4
    tiles = num_blocks(num_tokens, config["block_m"])
    partial = torch.empty((tiles, 2 * quarter + 1), dtype=torch.float32, device=tokens.device)
    bandwidth = torch.empty((num_tokens, len(levels)), dtype=torch.int32, device=tokens.device)
    k0, k1 = quarter_pieces(quarter)
    matrices = _matrices(quarter, k0 + k1, config["block_bins"], tokens.device)
    run(
        spectrum_fold4, (tiles,),
        tokens, matrices, levels, partial, bandwidth, num_tokens, per_batch, batch_stride, row_stride,
        M=quarter, K0=k0, K1=k1, COLUMNS=matrices.shape[2], BLOCK_M=config["block_m"], BLOCK_BINS=config["block_bins"],
        NUM_LEVELS=len(levels), LEVEL_COLUMNS=power_of_two(len(levels)), FOLD=fold,
        num_warps=config["num_warps"], num_stages=config["num_stages"],
    )  # fmt: skip
    return partial, bandwidth


def quarter_pieces(quarter: int) -> tuple[int, int]:
    """Two powers of two (the second may be 0) that cover a quarter of the channels with little padding."""
    if quarter <= 64:
        return max(16, power_of_two(quarter)), 0
    sums = [(k0 + k1, k0, k1) for k0 in (64, 128, 256) for k1 in (16, 32, 64, 128, 256) if k1 <= k0]
    _, k0, k1 = min(each for each in sums if each[0] >= quarter)
    return k0, k1


@functools.lru_cache(maxsize=8)
def _matrices(quarter: int, entries: int, block_bins: int, device: torch.device) -> Tensor:
    refuse_capture("the DFT matrix")
    width = 4 * quarter
    columns = math.ceil(quarter / block_bins) * block_bins
    places = torch.arange(quarter, dtype=torch.float64, device=device)[:, None] + 0.5
    matrices = torch.zeros(4, entries, columns, dtype=torch.float16, device=device)
    for odd in (0, 1):
        bins = 2 * torch.arange(quarter, dtype=torch.float64, device=device) + odd
        # Angles are reduced while they are exact: multiples of a half.
        angles = 2 * math.pi / width * ((places * bins) % width)
        matrices[2 * odd, :quarter, :quarter] = angles.cos()
        matrices[2 * odd + 1, :quarter, :quarter] = angles.sin()
    return matrices


# Rows of the table, and the width each is decided at; other multiples of 4 take the last.
WIDTHS = {"192": 192, "384": 384, "768": 768, "1024": 1024, "*": 576}
INTERPRETED = {"block_m": 16, "block_bins": 16, "num_warps": 4, "num_stages": 1}


def candidates(width: int) -> list[dict[str, int]]:
    """Settings, best guess first."""
    return [
        {"block_m": 64, "block_bins": block_bins, "num_warps": num_warps, "num_stages": 1}
        for block_bins, num_warps in ((64, 8), (32, 8), (32, 4), (16, 8))
    ]


def case(width: int, settings: Config) -> list[Case]:
    """What these settings compile to, with one level and with four."""
    quarter = width // 4
    k0, k1 = quarter_pieces(quarter)
    sizes = ("num_tokens", "per_batch", "batch_stride", "row_stride")
    types = {"X": "*bf16", "MATRICES": "*fp16", "LEVELS": "*fp32", "PARTIAL": "*fp32", "BANDWIDTH": "*i32"}
    blocks = {"BLOCK_M": settings["block_m"], "BLOCK_BINS": settings["block_bins"]}
    columns = math.ceil(quarter / settings["block_bins"]) * settings["block_bins"]
    return [
        Case(
            name=f"spectrum_fold4 {width} levels {num_levels}",
            kernel=spectrum_fold4,
            types={**types, **dict.fromkeys(sizes, "i32")},
            constants={
                "M": quarter,
                "K0": k0,
                "K1": k1,
                "COLUMNS": columns,
                "FOLD": False,
                **blocks,
                "NUM_LEVELS": num_levels,
                "LEVEL_COLUMNS": num_levels,
            },
            num_warps=settings["num_warps"],
            num_stages=settings["num_stages"],
            ragged=frozenset(("num_tokens", "per_batch")),
            narrow_loads="the mirrored halves are read in descending order",
        )
        for num_levels in (1, 4)
    ]


def cases() -> Iterator[Case]:
    """What the lint compiles, with the settings of Hopper's table."""
    table = read_table("sm_90").get("spectrum_fold4", {})
    for row, width in WIDTHS.items():
        if row in table:
            yield from case(width, table[row])


def _work(given: Config) -> Work:
    products = 4 * (given["K0"] + given["K1"]) * given["COLUMNS"]
    return Work(operations=2 * given["num_tokens"] * products, turns=num_blocks(4 * given["M"], 64))


def timing(width: int, settings: Config, device: torch.device) -> Callable[[], object]:
    """256 images with 196 tokens each."""
    tokens = torch.randn(256, 196, width, device=device).bfloat16()
    levels = torch.tensor([0.9], device=device)
    return lambda: launch(tokens, levels, False, settings)


KERNEL = Kernel(
    name="spectrum_fold4",
    launch=launch,
    widths=WIDTHS,
    candidates=candidates,
    case=case,
    cases=cases,
    timing=timing,
    interpreted=INTERPRETED,
    work={"spectrum_fold4": _work},
)
