"""The gradient of SpectralKD's loss with respect to the student's map, from one pass over both maps."""

# Triton's launch options, indexing and constexprs are beyond the type checker.
# pyright: reportCallIssue=false, reportArgumentType=false, reportGeneralTypeIssues=false

from collections.abc import Callable, Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from kdcache_kernels.device.case import Case
from kdcache_kernels.device.kernel import Kernel
from kdcache_kernels.device.launching import num_blocks, run
from kdcache_kernels.device.map_tile import (
    channels_last,
    line_offsets,
    line_parts,
    pooled_lines,
    window,
)
from kdcache_kernels.device.spectral_align import constants_of, layout_cases
from kdcache_kernels.dispatch import Config, read_table


@triton.jit
def spectral_align_grad(
    UPSTREAM, STUDENT, TEACHER, GRADIENT, num_lines, factor, s_image, s_channel, s_row, s_column,
    t_image, t_channel, t_row, t_column, g_image, g_channel, g_row, g_column,
    S_CHANNELS: tl.constexpr, T_CHANNELS: tl.constexpr, CHANNELS: tl.constexpr, S_LONGEST: tl.constexpr,
    T_LONGEST: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr, COLUMNS: tl.constexpr,
    BLOCK_LINES: tl.constexpr, CHANNELS_LAST: tl.constexpr,
):  # fmt: skip
    """Grid: tiles of lines (image, student channel, row). A pooled student's line rebuilds what it needs."""
    lines = tl.program_id(0) * BLOCK_LINES + tl.arange(0, BLOCK_LINES)
    columns = tl.arange(0, COLUMNS)
    mask = (lines < num_lines)[:, None] & (columns < WIDTH)[None, :]
    images, own, rows = line_parts(lines, S_CHANNELS, HEIGHT, CHANNELS_LAST)
    s_at = line_offsets(images, rows, columns, s_image, s_row, s_column)
    t_at = line_offsets(images, rows, columns, t_image, t_row, t_column)
    # The averages that hold a channel are those that it would be pooled to the other way round.
    first, end = window(own, CHANNELS, S_CHANNELS)
    gradient = tl.zeros((BLOCK_LINES, COLUMNS), tl.float32)
    for step in tl.static_range(2 if S_CHANNELS % CHANNELS else 1):
        channel = first + step
        held = mask & (channel < end)[:, None]
        difference = pooled_lines(STUDENT, s_at, channel, held, s_channel, S_CHANNELS, CHANNELS, S_LONGEST)
        difference -= pooled_lines(TEACHER, t_at, channel, held, t_channel, T_CHANNELS, CHANNELS, T_LONGEST)
        counted_twice = tl.sum(difference, 1)[:, None]
        if WIDTH % 2 == 0:
            is_even = (columns % 2 == 0)[None, :]
            alternating = tl.sum(tl.where(is_even, difference, -difference), 1)[:, None]
            counted_twice = counted_twice + tl.where(is_even, alternating, -alternating)
        lowest, highest = window(channel, S_CHANNELS, CHANNELS)
        gradient += (difference + counted_twice / WIDTH) / (highest - lowest).to(tl.float32)[:, None]
    gradient *= factor * tl.load(UPSTREAM).to(tl.float32)
    g_at = line_offsets(images, rows, columns, g_image, g_row, g_column) + (own.to(tl.int64) * g_channel)[:, None]
    tl.store(GRADIENT + g_at, gradient.to(GRADIENT.dtype.element_ty), mask=mask)


def launch(upstream: Tensor, student_map: Tensor, teacher_map: Tensor, factor: float, config: Config) -> Tensor:
    """Run it.

    Args:
        upstream: Scalar on the device, the gradient of the loss.
        student_map, teacher_map: (B, C_s, H, W) and (B, C_t, H, W), of any strides.
        factor: One over the real and imaginary parts of all bins.
        config: ``block_elements``, ``num_warps``, ``num_stages``.

    Returns: the gradient, of the student's shape, dtype and layout.
    """
    constants = constants_of(student_map.shape, teacher_map.shape[1], config, channels_last(student_map))
    gradient = torch.empty_like(student_map)
    num_lines = student_map.shape[0] * student_map.shape[1] * student_map.shape[2]
    run(
        spectral_align_grad, (num_blocks(num_lines, constants["BLOCK_LINES"]),),
        upstream, student_map, teacher_map, gradient, num_lines, factor,
        *student_map.stride(), *teacher_map.stride(), *gradient.stride(), **constants,
        num_warps=config["num_warps"], num_stages=config["num_stages"],
    )  # fmt: skip
    return gradient


WIDTHS = {"*": 384}
INTERPRETED = {"block_elements": 256, "num_warps": 4, "num_stages": 1}


def candidates(width: int) -> list[dict[str, int]]:
    """Settings, best guess first."""
    return [{"block_elements": elements, "num_warps": 4, "num_stages": 1} for elements in (1024, 2048, 512)]


def case(width: int, settings: Config) -> list[Case]:
    """What these settings compile to at 14 x 14: teachers as wide, twice and half as wide, in both layouts."""
    types = {
        **dict.fromkeys(("STUDENT", "TEACHER", "GRADIENT"), "*bf16"),
        "UPSTREAM": "*fp32",
        "factor": "fp32",
        "num_lines": "i32",
    }
    return layout_cases(spectral_align_grad, "stg", types, width, (width, 2 * width, width // 2), settings)


def cases() -> Iterator[Case]:
    """What the lint compiles, with the settings of Hopper's table."""
    return iter(case(384, read_table("sm_90")["spectral_align_grad"]["*"]))


def timing(width: int, settings: Config, device: torch.device) -> Callable[[], object]:
    """256 maps of 14 x 14."""
    student, teacher = (torch.randn(256, width, 14, 14, device=device).bfloat16() for _ in "ab")
    upstream = torch.ones((), device=device)
    return lambda: launch(upstream, student, teacher, 1.0, settings)


KERNEL = Kernel(
    name="spectral_align_grad",
    launch=launch,
    widths=WIDTHS,
    candidates=candidates,
    case=case,
    cases=cases,
    timing=timing,
    interpreted=INTERPRETED,
)
