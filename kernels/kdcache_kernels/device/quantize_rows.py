"""Tokens to int8 or e4m3 with a scale, sum and sum of squares per token; every token is read once."""

from collections.abc import Callable, Iterator, Mapping

import torch
import triton
import triton.language as tl
from torch import Tensor

from kdcache_kernels.device.case import Case
from kdcache_kernels.device.kernel import Kernel
from kdcache_kernels.device.launching import num_blocks, power_of_two, run
from kdcache_kernels.device.tile import token_offsets
from kdcache_kernels.dispatch import read_table
from kdcache_kernels.quantized import LARGEST, WIDEST

# One setting serves all widths, because it fixes the number of values in a program and not the number of rows.
WIDTHS = {"*": 1024}
_LINTED_WIDTHS = (192, 768, 4096)


@triton.jit
def quantize_rows(
    tokens,
    values,
    scales,
    sums,
    squares,
    num_tokens,
    tokens_per_image,
    image_stride,
    token_stride,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
    LARGEST: tl.constexpr,
    IS_FP8: tl.constexpr,
):
    """Quantise ROWS tokens of WIDTH <= BLOCK values; fp8 is stored as its bits."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, BLOCK)
    is_row = row < num_tokens
    inside = is_row[:, None] & (column < WIDTH)[None, :]
    start = token_offsets(row, tokens_per_image, image_stride, token_stride)
    x = tl.load(tokens + start[:, None] + column[None, :], mask=inside, other=0.0).to(tl.float32)
    tl.store(sums + row, tl.sum(x, 1), mask=is_row)
    energy = tl.sum(x * x, 1)
    tl.store(squares + row, energy, mask=is_row)

    # A maximum forgets NaN on GPUs, and the scale must tell of it; a sum of squares is NaN for nothing else.
    largest = tl.where(energy == energy, tl.max(tl.abs(x), 1), float("nan"))
    # Both divisions are rounded correctly, as the cache's codec does it; `/` is off by up to two units on GPUs.
    scale = tl.div_rn(largest, tl.full((ROWS,), LARGEST, tl.float32))
    tl.store(scales + row, scale, mask=is_row)
    steps = _quotients(x, tl.where((scale > 0) & (scale < float("inf")), scale, 1.0), IS_FP8)
    if IS_FP8:
        steps = tl.where(steps == steps, steps, 0.0)
    # A scale with few bits left, of a token near underflow, may be too small.
    steps = tl.minimum(tl.maximum(steps, -LARGEST), LARGEST)
    if IS_FP8:
        code = _e4m3_bits(steps)
    else:
        # 1.5 * 2**23 more leaves no fraction bits: to nearest, ties to even, and the lowest byte is the number.
        code = (steps + 12582912.0).to(tl.int32, bitcast=True).to(tl.int8)
    tl.store(values + row.to(tl.int64)[:, None] * WIDTH + column[None, :], code, mask=inside)


@triton.jit
def _quotients(x, divisor, KEEPS_SIGN: tl.constexpr):
    """x over its row's divisor, rounded correctly where the quotient is not tiny (4e7 random ones: all the same bits).

    One division a row. A quotient by multiplication is off by a unit or two; a fused multiply-add has what is left of x
    exactly, and corrects it. `div_rn` takes a slow path at every zero, masked channels too: with it 50,176 tokens of
    768 channels took 106 us on an H100, where torch.compile took 48.
    """
    # By a power of two, so that neither the reciprocal nor the rest leaves float32's range.
    power = tl.where(divisor < 8.7e-19, 18446744073709551616.0, tl.where(divisor > 1.2e18, 5.421010862427522e-20, 1.0))
    x = x * power[:, None]
    divisor = divisor * power
    inverse = tl.div_rn(tl.full(divisor.shape, 1.0, tl.float32), divisor)
    quotient = x * inverse[:, None]
    left = tl.fma(-quotient, tl.broadcast_to(divisor[:, None], x.shape), x)
    quotient = tl.fma(left, tl.broadcast_to(inverse[:, None], x.shape), quotient)
    return tl.where(x == 0, x, quotient) if KEEPS_SIGN else quotient  # the sign of a zero


@triton.jit
def _e4m3_bits(x):
    """Bits of float32 values of at most 448 in e4m3, ties to even: sm_80 has no cast, the interpreter's is off."""
    magnitude = tl.abs(x)
    bits = magnitude.to(tl.int32, bitcast=True)
    # Keep 3 of 23 fraction bits; a carry moves on to the exponent. The bias goes from 127 to 7.
    normal = ((bits + 0x7FFFF + ((bits >> 20) & 1)) >> 20) - (127 - 7) * 8
    # Below 2**-6 the steps are 2**-9 wide; eight of them are the code of 2**-6.
    subnormal = ((magnitude * 512.0 + 12582912.0) - 12582912.0).to(tl.int32)
    sign = (x.to(tl.int32, bitcast=True) >> 24) & 0x80
    return (tl.where(magnitude < 0.015625, subnormal, normal) | sign).to(tl.uint8)


def launch(
    tokens: Tensor,
    values: Tensor,
    scale: Tensor,
    sums: Tensor,
    squares: Tensor,
    *,
    elements: int,
    num_warps: int,
) -> None:
    """Fill the outputs of ``kdcache_kernels.quantize`` for tokens (N, D) or (B, L, D) with contiguous rows.

    Args:
        elements: About how many values one program holds.
        num_warps: Per program.

    Raises: ValueError for rows that do not fit one program.
    """
    width = tokens.shape[-1]
    block = power_of_two(width)
    if width > WIDEST:
        raise ValueError(f"tokens of {width} values are too wide, at most {WIDEST}; quantize() runs them in torch")
    num_tokens = scale.numel()
    rows = max(1, elements // block)
    is_fp8 = values.dtype == torch.float8_e4m3fn
    run(
        quantize_rows,
        (num_blocks(num_tokens, rows),),
        tokens,
        values.view(torch.uint8) if is_fp8 else values,
        scale,
        sums,
        squares,
        num_tokens,
        tokens.shape[-2],
        tokens.stride(0) if tokens.dim() == 3 else 0,
        tokens.stride(-2),
        WIDTH=width,
        BLOCK=block,
        ROWS=rows,
        LARGEST=LARGEST["fp8" if is_fp8 else "int8"],
        IS_FP8=is_fp8,
        num_warps=num_warps,
        num_stages=1,
    )


def candidates(width: int) -> list[dict[str, int]]:
    """Settings, best guess first: 32 values a thread keep four 16-byte loads in flight; one warp needs no barrier."""
    sizes = [(1024, 1), (2048, 2), (4096, 4), (2048, 1)]
    return [dict(zip(("elements", "num_warps"), size, strict=True)) for size in sizes]


def case(width: int, settings: Mapping[str, int]) -> list[Case]:
    """What one setting compiles to at one width: both formats of a bfloat16 teacher."""
    block = power_of_two(width)
    constants = {"WIDTH": width, "BLOCK": block, "ROWS": max(1, settings["elements"] // block)}
    types = {"tokens": "*bf16", "values": "*i8", "scales": "*fp32", "sums": "*fp32", "squares": "*fp32"}
    types |= dict.fromkeys(("num_tokens", "tokens_per_image", "image_stride", "token_stride"), "i32")
    return [
        Case(
            name=f"quantize_rows {name} D {width}",
            kernel=quantize_rows,
            types={**types, "values": pointer},
            constants={**constants, "LARGEST": LARGEST[name], "IS_FP8": name == "fp8"},
            num_warps=settings["num_warps"],
            num_stages=1,
            ragged=frozenset({"num_tokens", "tokens_per_image"}),
            has_products=False,
        )
        for name, pointer in (("int8", "*i8"), ("fp8", "*u8"))
    ]


def cases() -> Iterator[Case]:
    """Both formats at the widths of common teachers, as the table for Hopper launches them."""
    settings = read_table("sm_90").get("quantize_rows", {}).get("*") or candidates(1024)[0]
    for width in _LINTED_WIDTHS:
        yield from case(width, settings)


def timing(width: int, settings: Mapping[str, int], device: torch.device) -> Callable[[], None]:
    """A launch to int8 of a batch of 256 images with 196 tokens each."""
    tokens = torch.randn(256 * 196, width, device=device, dtype=torch.bfloat16)
    values = torch.empty_like(tokens, dtype=torch.int8)
    scale, sums, squares = (torch.empty(len(tokens), device=device) for _ in range(3))
    return lambda: launch(tokens, values, scale, sums, squares, **settings)


KERNEL = Kernel(
    name="quantize_rows",
    launch=launch,
    widths=WIDTHS,
    candidates=candidates,
    case=case,
    cases=cases,
    timing=timing,
)
