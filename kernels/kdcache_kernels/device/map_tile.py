"""Lines of feature maps: how a tile finds them, and how it averages channels of the wider map on the way."""

import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def line_parts(lines, CHANNELS: tl.constexpr, HEIGHT: tl.constexpr, CHANNELS_LAST: tl.constexpr):
    """Image, channel and row of each line; the fastest is what lies side by side in memory."""
    if CHANNELS_LAST:
        return lines // (CHANNELS * HEIGHT), lines % CHANNELS, lines // CHANNELS % HEIGHT
    else:
        return lines // (CHANNELS * HEIGHT), lines // HEIGHT % CHANNELS, lines % HEIGHT


@triton.jit
def line_offsets(images, rows, columns, image_stride, row_stride, column_stride):
    """Element offsets (lines, columns) of channel 0."""
    starts = images.to(tl.int64) * image_stride + rows.to(tl.int64) * row_stride
    return starts[:, None] + columns.to(tl.int64)[None, :] * column_stride


@triton.jit
def window(channel, WIDE: tl.constexpr, NARROW: tl.constexpr):
    """First channel of an adaptive average, and the one after its last."""
    return channel * WIDE // NARROW, ((channel + 1) * WIDE + NARROW - 1) // NARROW


@triton.jit
def pooled_lines(
    X, offsets, channel, mask, channel_stride, WIDE: tl.constexpr, NARROW: tl.constexpr, LONGEST: tl.constexpr
):
    """Float32 lines of one channel of the map as pooled from WIDE channels to NARROW, 0 outside the mask."""
    if WIDE == NARROW:
        at = offsets + (channel.to(tl.int64) * channel_stride)[:, None]
        return tl.load(X + at, mask=mask, other=0.0).to(tl.float32)
    else:
        first, end = window(channel, WIDE, NARROW)
        total = tl.zeros(mask.shape, tl.float32)
        for step in range(LONGEST):
            source = first + step
            at = offsets + (source.to(tl.int64) * channel_stride)[:, None]
            total += tl.load(X + at, mask=mask & (source < end)[:, None], other=0.0).to(tl.float32)
        return total / (end - first).to(tl.float32)[:, None]


def longest_window(wide: int, narrow: int) -> int:
    """Most channels in one adaptive average."""
    return max((-(-(each + 1) * wide // narrow)) - each * wide // narrow for each in range(narrow))


def channels_last(maps: Tensor) -> bool:
    """Whether channels lie closer in memory than columns."""
    return maps.stride(1) < maps.stride(3)


def example_strides(sides: str, last: bool) -> tuple[dict[str, str], dict[str, int]]:
    """Types of the strides of maps named by these letters, for compiling ahead of time, and those that are 1."""
    ones = {f"{side}_{'channel' if last else 'column'}": 1 for side in sides}
    names = [f"{side}_{axis}" for side in sides for axis in ("image", "channel", "row", "column")]
    return {name: "i32" for name in names if name not in ones}, ones
