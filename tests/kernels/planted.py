"""Kernels with a known fault each, for tests of the lint: copied into a folder and compiled there, never launched."""

from dataclasses import replace

import triton
import triton.language as tl
from kdcache_kernels.device.case import Case
from kdcache_kernels.device.kernel import Kernel


@triton.jit
def matmul(
    left, right, out, rows, stride, WIDTH: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr, STEP: tl.constexpr
):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    col = tl.arange(0, COLS)
    step = tl.arange(0, STEP)
    total = tl.zeros((ROWS, COLS), tl.float32)
    for start in range(0, WIDTH, STEP):
        a = tl.load(left + row[:, None] * stride + (start + step)[None, :], mask=(row < rows)[:, None], other=0.0)
        b = tl.load(right + (start + step)[:, None] * stride + col[None, :])
        total = tl.dot(a, b, total)
    tl.store(out + row[:, None] * stride + col[None, :], total, mask=(row < rows)[:, None])


@triton.jit
def matmul_and_sums(
    left,
    right,
    out,
    sums,
    rows,
    stride,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    STEP: tl.constexpr,
):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    col = tl.arange(0, COLS)
    step = tl.arange(0, STEP)
    total = tl.zeros((ROWS, COLS), tl.float32)
    sum_of_b = tl.zeros((COLS,), tl.float32)
    for start in range(0, WIDTH, STEP):
        a = tl.load(left + row[:, None] * stride + (start + step)[None, :], mask=(row < rows)[:, None], other=0.0)
        b = tl.load(right + (start + step)[:, None] * stride + col[None, :])
        total = tl.dot(a, b, total)
        sum_of_b += tl.sum(b.to(tl.float32), 0)
    tl.store(out + row[:, None] * stride + col[None, :], total, mask=(row < rows)[:, None])
    tl.store(sums + col, sum_of_b)


@triton.jit
def normalise(values, out, SIZE: tl.constexpr):
    each = tl.arange(0, SIZE)
    x = tl.load(values + each)
    tl.store(out + each, x / tl.sum(x))


def products(name, *, tile=64, stages=3, ragged=("rows",), width=512):
    return Case(
        name=name,
        kernel=matmul,
        types={"left": "*bf16", "right": "*bf16", "out": "*fp32", "rows": "i32", "stride": "i32"},
        constants={"WIDTH": width, "ROWS": tile, "COLS": tile, "STEP": 64},
        num_warps=4,
        num_stages=stages,
        ragged=frozenset(ragged),
    )


def shared_tile(name, *, stages):
    plain = products(name, stages=stages)
    return replace(plain, kernel=matmul_and_sums, types={**plain.types, "sums": "*fp32"})


def vector(name, size, *, has_products=False):
    types = {"values": "*fp32", "out": "*fp32"}
    constants = {"SIZE": size}
    return Case(name=name, kernel=normalise, types=types, constants=constants, num_warps=1, num_stages=1,
                has_products=has_products)  # fmt: skip


def cases():
    yield products("clean products")
    yield vector("clean vector", 1024)
    yield shared_tile("clean sums", stages=1)
    yield shared_tile("refilled while read", stages=3)
    yield vector("spilling", 16384)
    yield products("too much shared memory", tile=128, stages=9, width=1024)
    yield products("narrow loads", ragged=("rows", "stride"))
    yield vector("no products", 1024, has_products=True)
    yield vector("no code", 1000)


KERNEL = Kernel(
    name="planted",
    launch=matmul,
    widths={},
    candidates=lambda width: [],
    case=lambda width, settings: [],
    cases=cases,
    timing=lambda width, settings, device: lambda: None,
)
