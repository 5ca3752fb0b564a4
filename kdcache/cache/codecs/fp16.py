"""IEEE half precision: 11 significant bits, largest value 65,504."""

import numpy as np

from kdcache.cache.codecs.base import Codec
from kdcache.cache.codecs.packed import Packed
from kdcache.cache.record import Array, RecordLayout


class Fp16(Codec):
    """2 bytes a value, relative error at most 2**-11 above 6e-5."""

    name = "fp16"
    packed = Packed()
    device_form = "cast"

    def layout(self, shape: tuple[int, ...]) -> RecordLayout:
        return RecordLayout.plain("<f2", shape)

    def encode(self, values: Array) -> dict[str, Array]:
        # Overflow to Inf is not a warning here: the writer refuses such a record by key and position.
        with np.errstate(over="ignore"):
            return {"values": values.astype("<f2")}
