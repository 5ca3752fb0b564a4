"""The sum behind SpectralKD's loss, from one pass over both maps."""

# Triton's launch options, indexing and constexprs are beyond the type checker.
# pyright: reportCallIssue=false

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kdcache_kernels.device.case import Case
from kdcache_kernels.device.kernel import Kernel
from kdcache_kernels.device.launching import num_blocks, power_of_two, run
from kdcache_kernels.device.map_tile import (
    channels_last,
    example_strides,
    line_offsets,
    line_parts,
    longest_window,
    pooled_lines,
)
from kdcache_kernels.dispatch import Config, read_table


@triton.jit
def spectral_align(
    STUDENT, TEACHER, PARTIAL, num_lines, s_image, s_channel, s_row, s_column, t_image, t_channel, t_row, t_column,
    S_CHANNELS: tl.constexpr, T_CHANNELS: tl.constexpr, CHANNELS: tl.constexpr, S_LONGEST: tl.constexpr,
    T_LONGEST: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr, COLUMNS: tl.constexpr,
    BLOCK_LINES: tl.constexpr, CHANNELS_LAST: tl.constexpr,
):  # fmt: skip
    """Grid: tiles of lines (image, pooled channel, row). One number a tile."""
    lines = tl.program_id(0) * BLOCK_LINES + tl.arange(0, BLOCK_LINES)
    columns = tl.arange(0, COLUMNS)
    mask = (lines < num_lines)[:, None] & (columns < WIDTH)[None, :]
    images, channel, rows = line_parts(lines, CHANNELS, HEIGHT, CHANNELS_LAST)
    s_at = line_offsets(images, rows, columns, s_image, s_row, s_column)
    t_at = line_offsets(images, rows, columns, t_image, t_row, t_column)
    difference = pooled_lines(STUDENT, s_at, channel, mask, s_channel, S_CHANNELS, CHANNELS, S_LONGEST)
    difference -= pooled_lines(TEACHER, t_at, channel, mask, t_channel, T_CHANNELS, CHANNELS, T_LONGEST)
    along = tl.sum(difference, 1)
    squares = along * along
    if WIDTH % 2 == 0:
        alternating = tl.sum(tl.where((columns % 2 == 0)[None, :], difference, -difference), 1)
        squares += alternating * alternating
    total = tl.sum(tl.sum(difference * difference, 1) + squares / WIDTH, 0)
    tl.store(PARTIAL + tl.program_id(0), total)


def launch(student_map: Tensor, teacher_map: Tensor, config: Config) -> Tensor:
    """Run it.

    Args:
        student_map, teacher_map: (B, C_s, H, W) and (B, C_t, H, W), of any strides.
        config: ``block_elements``, ``num_warps``, ``num_stages``.

    Returns: (tiles,), float32: sums of d^2 + R_h^2 / W + [W even] A_h^2 / W, d the difference of the pooled maps.
    """
    constants = constants_of(student_map.shape, teacher_map.shape[1], config, channels_last(student_map))
    num_lines = student_map.shape[0] * constants["CHANNELS"] * student_map.shape[2]
    tiles = num_blocks(num_lines, constants["BLOCK_LINES"])
    partial = torch.empty(tiles, dtype=torch.float32, device=student_map.device)
    run(
        spectral_align, (tiles,),
        student_map, teacher_map, partial, num_lines, *student_map.stride(), *teacher_map.stride(), **constants,
        num_warps=config["num_warps"], num_stages=config["num_stages"],
    )  # fmt: skip
    return partial


def constants_of(shape: torch.Size, t_channels: int, config: Config, last: bool) -> dict[str, int]:
    """The kernel's constants for a student map of this shape."""
    _, s_channels, height, width = shape
    channels, columns = min(s_channels, t_channels), power_of_two(width)
    return {
        "S_CHANNELS": s_channels, "T_CHANNELS": t_channels, "CHANNELS": channels,
        "S_LONGEST": longest_window(s_channels, channels), "T_LONGEST": longest_window(t_channels, channels),
        "HEIGHT": height, "WIDTH": width, "COLUMNS": columns,
        "BLOCK_LINES": max(1, config["block_elements"] // columns), "CHANNELS_LAST": last,
    }  # fmt: skip


WIDTHS = {"*": 384}
INTERPRETED = {"block_elements": 256, "num_warps": 4, "num_stages": 1}


def candidates(width: int) -> list[dict[str, int]]:
    """Settings, best guess first."""
    return [{"block_elements": elements, "num_warps": 4, "num_stages": 1} for elements in (2048, 1024, 4096)]


def case(width: int, settings: Config) -> list[Case]:
    """What these settings compile to at 14 x 14, for a teacher as wide and one twice as wide, in both layouts."""
    types = {"STUDENT": "*bf16", "TEACHER": "*bf16", "PARTIAL": "*fp32", "num_lines": "i32"}
    return layout_cases(spectral_align, "st", types, width, (width, 2 * width), settings)


def layout_cases(
    kernel: Any, sides: str, types: Mapping[str, str], width: int, t_widths: Sequence[int], settings: Config
) -> list[Case]:
    """Cases of a kernel on maps of 14 x 14, channels first and last; `sides` are the letters of its maps' strides."""
    found: list[Case] = []
    for t_channels in t_widths:
        for last in (False, True):
            strides, ones = example_strides(sides, last)
            is_aligned = last and min(width, t_channels) % 16 == 0
            found.append(
                Case(
                    name=f"{kernel.__name__} {width} from {t_channels} {'BHWC' if last else 'BCHW'}",
                    kernel=kernel,
                    types={**types, **strides},
                    constants=constants_of(torch.Size((1, width, 14, 14)), t_channels, settings, last) | ones,
                    num_warps=settings["num_warps"],
                    num_stages=settings["num_stages"],
                    ragged=frozenset() if is_aligned else frozenset(("num_lines", *strides)),
                    has_products=False,
                )
            )
    return found


def cases() -> Iterator[Case]:
    """What the lint compiles, with the settings of Hopper's table."""
    return iter(case(384, read_table("sm_90")["spectral_align"]["*"]))


def timing(width: int, settings: Config, device: torch.device) -> Callable[[], object]:
    """256 maps of 14 x 14."""
    student, teacher = (torch.randn(256, width, 14, 14, device=device).bfloat16() for _ in "ab")
    return lambda: launch(student, teacher, settings)


KERNEL = Kernel(
    name="spectral_align",
    launch=launch,
    widths=WIDTHS,
    candidates=candidates,
    case=case,
    cases=cases,
    timing=timing,
    interpreted=INTERPRETED,
)
