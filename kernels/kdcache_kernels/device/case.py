"""What ahead-of-time compilation and the prediction of times must know of a kernel."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Case:
    """One kernel at one size.

    Args:
        name: For reports: kernel, formats, sizes.
        kernel: The jitted function.
        types: Triton's type of every run-time argument: ``*bf16``, ``*i8``, ``*fp8e4nv``, ``i32``, ``i64``, ``fp32``.
        constants: Every constexpr argument.
        num_warps, num_stages: As launched.
        ragged: Integer arguments that are not multiples of 16 in general (numbers of tokens, loop counts).
        has_products: Whether it must use matrix instructions.
        narrow_loads: Why a kernel with products loads one or two bytes at a time; empty where it must not.
    """

    name: str
    kernel: Any
    types: Mapping[str, str]
    constants: Mapping[str, Any]
    num_warps: int
    num_stages: int
    ragged: frozenset[str] = frozenset()
    has_products: bool = True
    narrow_loads: str = ""


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a launch has to do, for the prediction of its time.

    Args:
        operations: Multiplications and additions of all its matrix products, rounding and padding included.
        turns: Of the loops without a product, in each program.
    """

    operations: int = 0
    turns: int = 0
