"""Float32, exactly as the teacher said it."""

import numpy as np

from kdcache.cache.codecs.base import Codec
from kdcache.cache.record import Array, Fields, RecordLayout


class Fp32(Codec):
    """4 bytes a value, no loss."""

    name = "fp32"

    def layout(self, shape: tuple[int, ...]) -> RecordLayout:
        return RecordLayout.plain("<f4", shape)

    def encode(self, values: Array) -> dict[str, Array]:
        return {"values": values.astype("<f4", copy=False)}

    def decode(self, fields: Fields, shape: tuple[int, ...]) -> Array:
        return fields["values"].astype(np.float32)
