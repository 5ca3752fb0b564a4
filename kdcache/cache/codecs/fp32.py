"""Float32, exactly as the teacher gives it."""

from kdcache.cache.codecs.base import Codec
from kdcache.cache.codecs.packed import Packed
from kdcache.cache.record import Array, RecordLayout


class Fp32(Codec):
    """4 bytes a value, no loss."""

    name = "fp32"
    packed = Packed()
    device_form = "cast"

    def layout(self, shape: tuple[int, ...]) -> RecordLayout:
        return RecordLayout.plain("<f4", shape)

    def encode(self, values: Array) -> dict[str, Array]:
        return {"values": values.astype("<f4", copy=False)}
