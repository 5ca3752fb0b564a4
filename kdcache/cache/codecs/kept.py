"""What codecs share that keep the logits of K classes and one logit for all others."""

from typing import Any

from kdcache.cache.codecs.base import Codec
from kdcache.cache.codecs.packed import SparseLogits
from kdcache.cache.record import RecordLayout


class KeptLogits(Codec):
    """6 bytes for each of k classes and 4 for all others.

    Args:
        k: How many classes to keep.
    """

    packed = SparseLogits()
    for_logits = True

    def __init__(self, k: int) -> None:
        if k < 1:
            raise ValueError(f"{self.name} needs k >= 1, got {k}")
        self.k = k

    @classmethod
    def parse_argument(cls, argument: str | None) -> dict[str, Any]:
        if argument is None or not argument.isdecimal():
            raise ValueError(f"{cls.name} needs the number of classes to keep, for example {cls.name}=10")
        return {"k": int(argument)}

    @property
    def params(self) -> dict[str, Any]:
        return {"k": self.k}

    def layout(self, shape: tuple[int, ...]) -> RecordLayout:
        if len(shape) != 1 or shape[0] < self.k:
            raise ValueError(f"{self.name}={self.k} stores logits of at least {self.k} classes, got shape {shape}")
        kept = (self.k,)
        return RecordLayout.structured({"index": ("<i4", kept), "values": ("<f2", kept), "other": ("<f4", ())})
