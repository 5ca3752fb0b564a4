"""Signed 4-bit integers, two a byte, with one float16 scale for each token and group of 32 channels."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from kdcache.cache.codecs.base import Codec, channel_means
from kdcache.cache.record import Array, RecordLayout

_GROUP = 32
_LOWEST, _HIGHEST = -8, 7
# From so many tokens on, a record keeps the mean of each channel: at most half a bit a value.
_TOKENS_WITH_MEAN = 32
# The integer that the largest value of a group becomes. The one of least squared error wins: there are
# 8 steps on one side of zero and 7 on the other, and clipping the largest leaves finer steps to the others.
_LEVELS = (7.0, -7.5, -8.0, -8.5, -9.0)
_BLOCK = 4096  # groups that are encoded at once


class Int4(Codec):
    """4.5 bits a value, 28 % of fp16; normally distributed tokens lose 0.7 % of their energy.

    The channels of a group are rotated by a Hadamard matrix, which spreads one large value over all of them. Records of
    32 tokens and more also keep the mean of each channel, float16 (16 / N bits a value): a channel that is large in all
    tokens then costs the others nothing, one that is large in some tokens costs its group. Widths that are no multiple
    of 32 are filled with zeros and store more.

    A float32 scale would make it 5 bits, 31 % of fp16. The integers are chosen for the scale as rounded to float16, so
    that costs no accuracy; a spread below about 1e-5 does, and values beyond 65,504 may be refused.
    """

    name = "int4"
    for_logits = False
    device_form = "fields"

    def layout(self, shape: tuple[int, ...]) -> RecordLayout:
        groups = (*shape[:-1], _num_groups(shape[-1]))
        parts = {"values": ("|u1", (*groups, _GROUP // 2)), "scale": ("<f2", groups)}
        return RecordLayout.structured(parts | ({"mean": ("<f2", shape[-1:])} if _has_mean(shape) else {}))

    def encode(self, values: Array) -> dict[str, Array]:
        # What exceeds float16 decodes to Inf or NaN: the writer refuses such a record.
        with np.errstate(over="ignore", invalid="ignore"):
            return self.encode_fields(values.astype(np.float32, copy=False), np)

    def encode_fields(self, values: Any, xp: Any) -> dict[str, Any]:
        fields: dict[str, Any] = {}
        if _has_mean(values.shape[1:]):
            fields["mean"] = channel_means(values, xp)
            values = values - xp.asarray(fields["mean"], dtype=xp.float32)[:, None]
        groups = (*values.shape[:-1], _num_groups(values.shape[-1]))
        if missing := -values.shape[-1] % _GROUP:
            zeros = xp.broadcast_to(xp.zeros_like(values[..., :1]), (*values.shape[:-1], missing))
            values = xp.concatenate([values, zeros], -1)
        pairs, scale = _quantized(values.reshape(-1, _GROUP), xp)
        return {"values": pairs.reshape(*groups, _GROUP // 2), "scale": scale.reshape(groups), **fields}

    def unpack(self, fields: Mapping[str, Any], shape: tuple[int, ...], xp: Any) -> Any:
        pairs, scale = fields["values"], fields["scale"]
        halves = xp.stack([pairs & 15, pairs >> 4], -1).reshape(*scale.shape, _GROUP)
        # Sums of 32 such integers are exact in 16 bits. What is rounded: one product, and one sum with the mean.
        integers = _hadamard(xp.asarray(halves, dtype=xp.int16) + _LOWEST, xp)
        scaled = xp.asarray(integers, dtype=xp.float32) * xp.asarray(scale, dtype=xp.float32)[..., None]
        decoded = scaled.reshape(*scale.shape[:-1], scale.shape[-1] * _GROUP)[..., : shape[-1]]
        if _has_mean(shape):
            return decoded + xp.asarray(fields["mean"], dtype=xp.float32)[:, None]
        return decoded


def _has_mean(shape: tuple[int, ...]) -> bool:
    return len(shape) > 1 and shape[0] >= _TOKENS_WITH_MEAN


def _hadamard(groups: Any, xp: Any) -> Any:
    """Sums of the last axis with the signs of a Hadamard matrix (Sylvester's); twice gives 32 times the groups."""
    half = groups.shape[-1] // 2
    for _ in range(half.bit_length()):
        first, second = groups[..., :half], groups[..., half:]
        groups = xp.stack([first + second, first - second], -1).reshape(groups.shape)
    return groups


def _num_groups(num_channels: int) -> int:
    return -(-num_channels // _GROUP)


def _quantized(groups: Any, xp: Any) -> tuple[Any, Any]:
    """Rotate groups (G, 32) and quantise them: integers from 0 to 15, two a byte, (G, 16), and float16 scales (G,)."""
    if xp is not np:
        return _nearest(groups, xp)
    pairs, scale = np.empty((len(groups), _GROUP // 2), np.uint8), np.empty(len(groups), "<f2")
    # Blocks that stay in a core's own memory: twice as fast as all at once.
    for start in range(0, len(groups), _BLOCK):
        part = slice(start, start + _BLOCK)
        pairs[part], scale[part] = _nearest(groups[part], xp)
    return pairs, scale


def _nearest(groups: Any, xp: Any) -> tuple[Any, Any]:
    """Integers of groups (G, 32), two a byte, and the float16 scales of least squared error."""
    rotated = _hadamard(groups, xp) / _GROUP
    highest, lowest = xp.amax(rotated, axis=-1)[:, None], xp.amin(rotated, axis=-1)[:, None]
    largest = xp.where(highest >= -lowest, highest, lowest)
    scale = xp.asarray(largest / _LEVELS[0], dtype=xp.float16)
    # NaN where it overflows: no error is below the one of NaN, and 0 * Inf would be a warning when decoding.
    scale = xp.where(xp.isfinite(scale), scale, xp.full_like(scale, np.nan))
    integers, least = _at_scale(rotated, scale, xp)
    for level in _LEVELS[1:]:
        other = xp.asarray(largest / level, dtype=xp.float16)
        found, error = _at_scale(rotated, other, xp)
        better = error < least
        integers, scale = xp.where(better, found, integers), xp.where(better, other, scale)
        least = xp.where(better, error, least)
    shifted = xp.asarray(xp.nan_to_num(integers, nan=0.0) - _LOWEST, dtype=xp.uint8)
    return shifted[:, 0::2] | (shifted[:, 1::2] << 4), scale[:, 0]


def _at_scale(groups: Any, scale: Any, xp: Any) -> tuple[Any, Any]:
    """The nearest integers (G, 32), as float32, and the squared error (G, 1) of these scales (G, 1)."""
    step = xp.asarray(scale, dtype=xp.float32)
    integers = xp.clip(xp.round(groups / xp.where(step == 0, xp.ones_like(step), step)), _LOWEST, _HIGHEST)
    error = xp.square(integers * step - groups)
    # Halves onto each other: one order of sums for every library and device.
    while error.shape[-1] > 1:
        half = error.shape[-1] // 2
        error = error[:, :half] + error[:, half:]
    return integers, error
