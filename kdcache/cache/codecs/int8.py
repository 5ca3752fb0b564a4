"""Signed 8-bit integers with one float32 scale per token."""

import numpy as np

from kdcache.cache.codecs.base import Codec
from kdcache.cache.codecs.packed import Packed
from kdcache.cache.record import Array, RecordLayout

_LARGEST = 127


class Int8(Codec):
    """1 byte a value and 4 a token; the error of a value is at most 1/254 of the largest value of its token."""

    name = "int8"
    packed = Packed(scale="scale")
    for_logits = False
    device_form = "int8"

    def layout(self, shape: tuple[int, ...]) -> RecordLayout:
        return RecordLayout.structured({"values": ("|i1", shape), "scale": ("<f4", shape[:-1])})

    def encode(self, values: Array) -> dict[str, Array]:
        values = values.astype(np.float32, copy=False)
        scale = np.abs(values).max(axis=-1) / np.float32(_LARGEST)
        # A token of zeros, or one so small that its scale underflows, has scale 0 and decodes to zeros.
        divisor = np.where(scale > 0, scale, np.float32(1))[..., None]
        rounded = np.rint(values / divisor)
        return {"values": np.clip(rounded, -_LARGEST, _LARGEST).astype(np.int8), "scale": scale.astype("<f4")}
