"""The k largest class logits, and one logit for each of the others."""

from typing import Any

import numpy as np

from kdcache.cache.codecs.base import Codec
from kdcache.cache.codecs.packed import SparseLogits
from kdcache.cache.record import Array, RecordLayout


class TopK(Codec):
    """6 bytes a kept logit and 4 for all others.

    A record holds ``index`` (the classes, largest logit first, ties by lower class), ``values``
    (their logits, fp16) and ``other``, the log of the mean exponential of the other K - k logits
    (-inf when k = K): the one logit that keeps their summed exponential when each of them gets it.
    At temperature 1 the teacher's probabilities of the k classes, and of the others together,
    follow exactly up to the rounding of ``values`` and ``other``; at any other temperature the
    others' probability does not.

    Args:
        k: How many logits to keep.
    """

    name = "topk"
    packed = SparseLogits()
    for_logits = True

    def __init__(self, k: int) -> None:
        if k < 1:
            raise ValueError(f"topk needs k >= 1, got {k}")
        self.k = k

    @classmethod
    def parse_argument(cls, argument: str | None) -> dict[str, Any]:
        if argument is None or not argument.isdecimal():
            raise ValueError("topk needs the number of logits to keep, for example topk=10")
        return {"k": int(argument)}

    @property
    def params(self) -> dict[str, Any]:
        return {"k": self.k}

    def layout(self, shape: tuple[int, ...]) -> RecordLayout:
        if len(shape) != 1 or shape[0] < self.k:
            raise ValueError(f"topk={self.k} stores logits of at least {self.k} classes, got shape {shape}")
        kept = (self.k,)
        return RecordLayout.structured({"index": ("<i4", kept), "values": ("<f2", kept), "other": ("<f4", ())})

    def encode(self, values: Array) -> dict[str, Array]:
        order = np.argsort(-values, axis=-1, kind="stable")
        kept, others = order[:, : self.k], order[:, self.k :]
        with np.errstate(over="ignore"):
            largest = np.take_along_axis(values, kept, axis=-1).astype("<f2")
        return {"index": kept.astype("<i4"), "values": largest, "other": _log_mean_exp(values, others).astype("<f4")}


def _log_mean_exp(values: Array, columns: Array) -> Array:
    if columns.shape[1] == 0:
        return np.full(len(values), -np.inf, np.float32)
    chosen = np.take_along_axis(values, columns, axis=-1).astype(np.float64)
    largest = chosen.max(axis=-1, keepdims=True)
    return (largest[:, 0] + np.log(np.exp(chosen - largest).mean(axis=-1))).astype(np.float32)
