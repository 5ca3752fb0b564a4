"""Signed 8-bit integers with a scale for each token and for each channel of a record, around the channels' means."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from kdcache.cache.codecs.base import Codec, channel_means, half
from kdcache.cache.record import Array, RecordLayout

_LARGEST = 127
# Mean and scale of a channel take 4 bytes a record: with fewer tokens that is more than a quarter of a byte a value.
_FEWEST_TOKENS = 16
_BLOCK_VALUES = 1 << 18


class Int8C(Codec):
    """1 byte a value, 4 a channel and 2 a token, all of one record; for records of 16 tokens and more.

    A channel is measured in units of its own spread around its mean in the record, and only then do the channels of a
    token share a scale. So one that is far larger than the others, in all tokens or in some, takes none of their steps,
    as it does under int8; neither does a token larger than the others. The error of a value is at most sqrt(N) / 254 of
    the spread (root mean square around the mean) of its channel in its record; of normally distributed ones some
    0.6 % of it.

    Means and scales are float16 and the integers are chosen for them as rounded; a spread below about 1e-5 is coarser,
    and a record with a channel beyond 65,504 may be refused.
    """

    name = "int8c"
    for_logits = False
    device_form = "fields"

    def layout(self, shape: tuple[int, ...]) -> RecordLayout:
        if len(shape) != 2 or shape[0] < _FEWEST_TOKENS:
            tokens = f"{shape[0]} tokens" if len(shape) == 2 else "one vector"
            raise ValueError(
                f"int8c stores {_FEWEST_TOKENS} tokens a record or more, which share the scales of the channels; this "
                f"has {tokens}, for which fp16 takes hardly more bytes"
            )
        num_tokens, num_channels = shape
        return RecordLayout.structured(
            {
                "values": ("|i1", shape),
                "token_scale": ("<f2", (num_tokens,)),
                "channel_scale": ("<f2", (num_channels,)),
                "mean": ("<f2", (num_channels,)),
            }
        )

    def encode(self, values: Array) -> dict[str, Array]:
        num_records, num_tokens, num_channels = values.shape
        fields = {
            "values": np.empty(values.shape, np.int8),
            "token_scale": np.empty((num_records, num_tokens), "<f2"),
            "channel_scale": np.empty((num_records, num_channels), "<f2"),
            "mean": np.empty((num_records, num_channels), "<f2"),
        }
        # Blocks that stay in a core's own memory.
        step = max(1, _BLOCK_VALUES // (num_tokens * num_channels))
        for start in range(0, num_records, step):
            part = slice(start, start + step)
            # What exceeds float16 decodes to Inf or NaN: the writer refuses such a record.
            with np.errstate(over="ignore", invalid="ignore"):
                encoded = self.encode_fields(values[part].astype(np.float32, copy=False), np)
            for name, found in encoded.items():
                fields[name][part] = found
        return fields

    def encode_fields(self, values: Any, xp: Any) -> dict[str, Any]:
        mean = channel_means(values, xp)
        spread = values - _single(mean, xp)[:, None]
        energy = xp.mean(xp.square(xp.asarray(spread, dtype=xp.float64)), axis=1)
        channel_scale = half(xp.sqrt(energy), xp)
        spread = spread / _divisor(channel_scale, xp)[:, None] * (channel_scale > 0)[:, None]
        token_scale = half(xp.amax(xp.abs(spread), axis=-1) / _LARGEST, xp)
        steps = xp.clip(xp.round(spread / _divisor(token_scale, xp)[..., None]), -_LARGEST, _LARGEST)
        integers = xp.asarray(xp.nan_to_num(steps, nan=0.0), dtype=xp.int8)
        return {"values": integers, "token_scale": token_scale, "channel_scale": channel_scale, "mean": mean}

    def unpack(self, fields: Mapping[str, Any], shape: tuple[int, ...], xp: Any) -> Any:
        values, token_scale, channel_scale, mean = (
            xp.asarray(fields[name], dtype=xp.float32) for name in ("values", "token_scale", "channel_scale", "mean")
        )
        # The first product is exact, 7 bits by 11; the second and the sum are rounded.
        return values * token_scale[:, :, None] * channel_scale[:, None] + mean[:, None]


def _single(values: Any, xp: Any) -> Any:
    return xp.asarray(values, dtype=xp.float32)


def _divisor(scale: Any, xp: Any) -> Any:
    """The scales as float32, 1 for those of 0, whose channels or tokens decode to the mean."""
    return xp.where(scale > 0, _single(scale, xp), xp.ones_like(_single(scale, xp)))
