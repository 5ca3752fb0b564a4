"""Spectra of tokens of any width: products with the cosine and the sine matrix, a block of bins at a time."""

# Triton's launch options, indexing and constexprs are beyond the type checker.
# pyright: reportCallIssue=false

import functools
import math
from collections.abc import Callable, Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from kdcache_kernels.device.case import Case
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
def spectrum_dft(
    X, MATRICES, LEVELS, PARTIAL, BANDWIDTH, num_tokens, per_batch, batch_stride, row_stride,
    WIDTH: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_BINS: tl.constexpr,
    BLOCK_K: tl.constexpr, NUM_LEVELS: tl.constexpr, LEVEL_COLUMNS: tl.constexpr, FOLD: tl.constexpr,
):  # fmt: skip
    """Grid: tiles of tokens. A tile's sum of normalised energies of bins 0 .. WIDTH // 2, and its bandwidths.

    MATRICES is (2, ROWS, COLUMNS), cosines and sines, zero beyond the width and beyond the last bin.
    """
    program = tl.program_id(0)
    rows = program * BLOCK_M + tl.arange(0, BLOCK_M)
    is_row = rows < num_tokens
    base = X + token_offsets(rows, per_batch, batch_stride, row_stride)[:, None]
    energy = tl.zeros((BLOCK_M,), tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    for start in range(0, WIDTH, BLOCK_K):
        channels = start + tl.arange(0, BLOCK_K)
        x = tl.load(base + channels[None, :], mask=is_row[:, None] & (channels < WIDTH)[None, :], other=0.0)
        x = x.to(tl.float32)
        energy += tl.sum(x * x, 1)
        total += tl.sum(x, 1)
    scale = power_of_two_scale(energy, WIDTH)
    inverse = normaliser(energy, scale, WIDTH)
    dc = total * scale * (total * scale) * inverse

    BINS: tl.constexpr = WIDTH // 2 + 1
    partial = PARTIAL + program.to(tl.int64) * BINS
    passed = tl.zeros((BLOCK_M,), tl.float32)
    counts = tl.zeros((BLOCK_M, LEVEL_COLUMNS), tl.int32)
    for first in range(0, BINS, BLOCK_BINS):
        bins = first + tl.arange(0, BLOCK_BINS)
        real = tl.zeros((BLOCK_M, BLOCK_BINS), tl.float32)
        imaginary = tl.zeros((BLOCK_M, BLOCK_BINS), tl.float32)
        for start in range(0, WIDTH, BLOCK_K):
            channels = start + tl.arange(0, BLOCK_K)
            x = tl.load(base + channels[None, :], mask=is_row[:, None] & (channels < WIDTH)[None, :], other=0.0)
            operand = (x.to(tl.float32) * scale[:, None]).to(tl.float16)
            at = MATRICES + channels[:, None] * COLUMNS + bins[None, :]
            real = tl.dot(operand, tl.load(at), real)
            imaginary = tl.dot(operand, tl.load(at + ROWS * COLUMNS), imaginary)
        energies = (real * real + imaginary * imaginary) * inverse[:, None]
        tl.store(partial + bins, tl.sum(energies, 0), mask=bins < BINS)
        cumulative = passed[:, None] + tl.cumsum(energies, 1)
        counts = count_bins(counts, LEVELS, cumulative, dc, bins, WIDTH, NUM_LEVELS, FOLD)
        passed += tl.sum(energies, 1)
    store_bandwidth(BANDWIDTH, counts, energy, rows, num_tokens, NUM_LEVELS)


def launch(tokens: Tensor, levels: Tensor, fold: bool, config: Config) -> tuple[Tensor, Tensor]:
    """Run it.

    Args:
        tokens: (B, L, D), channels side by side.
        levels: (num_levels,), float32, on the device.
        fold: Which bins' bandwidth.
        config: ``block_m``, ``block_bins``, ``block_k``, ``num_warps``, ``num_stages``.

    Returns: sums of bins 0 .. D // 2 (tiles, D // 2 + 1), float32; bandwidths (B * L, num_levels), int32.
    """
    num_tokens, per_batch, batch_stride, row_stride = sizes(tokens)
    width = tokens.shape[-1]
    tiles = num_blocks(num_tokens, config["block_m"])
    partial = torch.empty((tiles, width // 2 + 1), dtype=torch.float32, device=tokens.device)
    bandwidth = torch.empty((num_tokens, len(levels)), dtype=torch.int32, device=tokens.device)
    matrices = _matrices(width, config["block_bins"], config["block_k"], tokens.device)
    run(
        spectrum_dft, (tiles,),
        tokens, matrices, levels, partial, bandwidth, num_tokens, per_batch, batch_stride, row_stride,
        WIDTH=width, ROWS=matrices.shape[1], COLUMNS=matrices.shape[2], BLOCK_M=config["block_m"],
        BLOCK_BINS=config["block_bins"], BLOCK_K=config["block_k"], NUM_LEVELS=len(levels),
        LEVEL_COLUMNS=power_of_two(len(levels)), FOLD=fold,
        num_warps=config["num_warps"], num_stages=config["num_stages"],
    )  # fmt: skip
    return partial, bandwidth


def _padded(width: int, block_bins: int, block_k: int) -> tuple[int, int]:
    return math.ceil(width / block_k) * block_k, math.ceil((width // 2 + 1) / block_bins) * block_bins


@functools.lru_cache(maxsize=8)
def _matrices(width: int, block_bins: int, block_k: int, device: torch.device) -> Tensor:
    refuse_capture("the DFT matrix")
    num_bins = width // 2 + 1
    places = torch.arange(width, device=device)[:, None]
    # Whole turns are dropped in integers, where that is exact.
    angles = 2 * math.pi / width * ((places * torch.arange(num_bins, device=device)) % width).double()
    matrices = torch.zeros(2, *_padded(width, block_bins, block_k), dtype=torch.float16, device=device)
    matrices[0, :width, :num_bins] = angles.cos()
    matrices[1, :width, :num_bins] = angles.sin()
    return matrices


WIDTHS = {"*": 770}
INTERPRETED = {"block_m": 16, "block_bins": 16, "block_k": 16, "num_warps": 4, "num_stages": 1}


def candidates(width: int) -> list[dict[str, int]]:
    """Settings, best guess first; without a pipeline, because the operand is scaled in registers (triton#9433)."""
    return [
        {"block_m": block_m, "block_bins": 64, "block_k": block_k, "num_warps": 4, "num_stages": 1}
        for block_m, block_k in ((64, 64), (64, 32), (32, 64))
    ]


def case(width: int, settings: Config) -> list[Case]:
    """What these settings compile to, with one level and with four."""
    rows, columns = _padded(width, settings["block_bins"], settings["block_k"])
    strides = ("batch_stride", "row_stride")
    types = {"X": "*bf16", "MATRICES": "*fp16", "LEVELS": "*fp32", "PARTIAL": "*fp32", "BANDWIDTH": "*i32"}
    blocks = {f"BLOCK_{name}": settings[f"block_{name.lower()}"] for name in ("M", "BINS", "K")}
    return [
        Case(
            name=f"spectrum_dft {width} levels {num_levels}",
            kernel=spectrum_dft,
            types={**types, **dict.fromkeys(("num_tokens", "per_batch", *strides), "i32")},
            constants={
                "WIDTH": width,
                "ROWS": rows,
                "COLUMNS": columns,
                "FOLD": False,
                **blocks,
                "NUM_LEVELS": num_levels,
                "LEVEL_COLUMNS": num_levels,
            },
            num_warps=settings["num_warps"],
            num_stages=settings["num_stages"],
            # Rows of an odd width start anywhere.
            ragged=frozenset(("num_tokens", "per_batch", *(strides if width % 16 else ()))),
            narrow_loads="rows of an odd width start anywhere" if width % 16 else "",
        )
        for num_levels in (1, 4)
    ]


def cases() -> Iterator[Case]:
    """What the lint compiles, with the settings of Hopper's table."""
    for width in (770, 1280):
        yield from case(width, read_table("sm_90")["spectrum_dft"]["*"])


def timing(width: int, settings: Config, device: torch.device) -> Callable[[], object]:
    """256 images with 196 tokens each."""
    tokens = torch.randn(256, 196, width, device=device).bfloat16()
    levels = torch.tensor([0.9], device=device)
    return lambda: launch(tokens, levels, False, settings)


KERNEL = Kernel(
    name="spectrum_dft",
    launch=launch,
    widths=WIDTHS,
    candidates=candidates,
    case=case,
    cases=cases,
    timing=timing,
    interpreted=INTERPRETED,
)
