"""Widths the projection kernels are tuned and compiled at, and a problem of each to time them on."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from kdcache_kernels.device.case import Case
from kdcache_kernels.device.tile import POINTERS, column_pieces
from kdcache_kernels.dispatch import read_table
from kdcache_kernels.projection_problem import Problem

# Students of width Ds as timm has them; a wider one runs in plain torch.
WIDTHS = {str(width): width for width in (192, 256, 384, 512, 768, 1024)}
# The direct form holds a whole row of student channels in a tile, which wider students do not fit into.
DIRECT_WIDTHS = {name: width for name, width in WIDTHS.items() if width <= 512}
# Stored formats that a row must serve: as the student's, and converted in registers. Caches hold float16 by default,
# and students train in bfloat16.
FORMATS = ("bf16", "fp16", "int8")
_RAGGED = frozenset(("num_rows", "per_batch", "tiles_per_split"))
_LINTED = (192, 384, 768)
_TOKENS = 256 * 196


def linted_cases(kernel: str, case: Callable[[int, Mapping[str, int]], list[Case]]) -> Iterator[Case]:
    """Cases at some widths with the settings that the table of Hopper launches."""
    table = read_table("sm_90").get(kernel, {})
    for width in _LINTED:
        if str(width) in table:
            yield from case(width, table[str(width)])


def tile_constants(width: int, depth: int, settings: Mapping[str, int]) -> dict[str, int]:
    """Widths of student and teacher, and the tiles, as every projection kernel names them."""
    c0, c1 = column_pieces(width, settings["columns"])
    blocks = {name.upper(): value for name, value in settings.items() if name.startswith("block_")}
    return {"DS": width, "DT": depth, "C0": c0, "C1": c1, **blocks}


def format_cases(
    kernel: Any, types: Mapping[str, str], constants: Mapping[str, Any], settings: Mapping[str, int]
) -> list[Case]:
    """One case of a projection kernel for each stored format of T.

    Args:
        kernel: The jitted function.
        types: Of its arguments, without T and the sizes that all projection kernels take.
        constants: Its constants, without those that the format decides.
        settings: As launched.
    """
    sizes = dict.fromkeys(("num_rows", "per_batch", "s_batch", "s_row", "t_row"), "i32")
    return [
        Case(
            name=f"{kernel.__name__} {stored} {constants['DS']}->{constants['DT']}",
            kernel=kernel,
            types={**sizes, **types, "T": POINTERS[stored]},
            constants={**constants, "HAS_SCALE": stored == "int8", "HAS_SHIFT": False},
            num_warps=settings["num_warps"],
            num_stages=settings["num_stages"],
            ragged=_RAGGED & {*sizes, *types},
        )
        for stored in FORMATS
    ]


def timing_problem(width: int, depth: int, device: torch.device) -> Problem:
    """A batch of 256 images with 196 tokens each, bfloat16 throughout."""
    generator = torch.Generator(device).manual_seed(0)

    def normal(*size: int) -> torch.Tensor:
        return torch.randn(size, generator=generator, device=device)

    student, values = normal(_TOKENS, width).bfloat16(), normal(_TOKENS, depth).bfloat16()
    weight = normal(depth, width).bfloat16() / width**0.5
    return Problem(student, weight, normal(depth), values, None, None, None, None)


def stages(settings: Mapping[str, int], is_converted: bool) -> int:
    """Stages of the pipeline: an operand that is converted in registers has its own number (triton#9433)."""
    return settings.get("num_stages_converted", settings["num_stages"]) if is_converted else settings["num_stages"]
