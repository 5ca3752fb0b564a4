"""Eight-bit floats (e4m3: four bits of exponent, three of mantissa) with one float32 scale per token."""

import numpy as np

from kdcache.cache.codecs.base import Codec
from kdcache.cache.codecs.packed import Packed
from kdcache.cache.record import Array, RecordLayout

_CODES = np.arange(127)
# What each code without its sign stands for: below 8 a subnormal number, then 8 codes a power of two, up to 448.
_MAGNITUDES = np.where(_CODES < 8, _CODES * 2.0**-9, (8 + _CODES % 8) * 2.0 ** (_CODES // 8 - 10)).astype(np.float32)
_MIDPOINTS = (_MAGNITUDES[1:] + _MAGNITUDES[:-1]) / 2
_VALUES = np.concatenate([_MAGNITUDES, [np.nan], -_MAGNITUDES, [np.nan]]).astype(np.float32)


class Fp8(Codec):
    """1 byte a value and 4 a token; the error of a value is at most 1/16 of it, or 2^-10/448 of its token's largest.

    Of use beside a few channels far larger than the others, which take int8's steps from the small ones: there every
    value keeps its own three bits. Elsewhere int8 is finer.
    """

    name = "fp8"
    packed = Packed(torch_dtype="float8_e4m3fn", scale="scale")
    for_logits = False
    device_form = "fp8"

    def layout(self, shape: tuple[int, ...]) -> RecordLayout:
        return RecordLayout.structured({"values": ("|u1", shape), "scale": ("<f4", shape[:-1])})

    def encode(self, values: Array) -> dict[str, Array]:
        values = values.astype(np.float32, copy=False)
        scale = np.abs(values).max(axis=-1) / _MAGNITUDES[-1]
        # A token of zeros, or one so small that its scale underflows, has scale 0 and decodes to zeros.
        scaled = values / np.where(scale > 0, scale, np.float32(1))[..., None]
        size = np.abs(scaled)
        # To the nearest; half-way to the even code.
        below, above = (np.searchsorted(_MIDPOINTS, size, side=side) for side in ("left", "right"))
        codes = np.where(below % 2 == 0, below, above)
        return {"values": (codes + 128 * np.signbit(scaled)).astype("u1"), "scale": scale.astype("<f4")}

    def widen(self, stored: Array) -> Array:
        return _VALUES[stored]
