"""bfloat16: the range of float32, 8 significant bits, stored as uint16 because numpy lacks the type."""

import numpy as np

from kdcache.cache.codecs.base import Codec
from kdcache.cache.codecs.packed import Packed
from kdcache.cache.record import Array, RecordLayout


class Bf16(Codec):
    """2 bytes a value, relative error at most 2**-8, no overflow that float32 would not have."""

    name = "bf16"
    packed = Packed(torch_dtype="bfloat16")
    device_form = "cast"

    def layout(self, shape: tuple[int, ...]) -> RecordLayout:
        return RecordLayout.plain("<u2", shape)

    def encode(self, values: Array) -> dict[str, Array]:
        bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
        # Round to nearest even: add just under half a unit, plus the lowest kept bit to break ties. The carry may
        # reach the exponent and, for the largest finite values, give Inf as it should.
        rounded = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
        return {"values": (rounded >> np.uint32(16)).astype("<u2")}

    def widen(self, stored: Array) -> Array:
        return (stored.astype(np.uint32) << np.uint32(16)).view(np.float32)
