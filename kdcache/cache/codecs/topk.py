"""The k largest class logits, and what all the others weigh together."""

from typing import Any

import numpy as np

from kdcache.cache.codecs.base import Codec
from kdcache.cache.record import Array, Fields, RecordLayout


class TopK(Codec):
    """6 bytes a kept logit and 4 for the rest.

    A record holds ``index`` (K of the class, largest logit first, ties by lower class), ``values`` (fp16 logits) and
    ``rest``, the log of the summed exponentials of all other logits (-inf when k = K). At temperature 1 the teacher's
    probabilities of the k classes, and of the others together, follow exactly up to fp16.

    Args:
        k: How many logits to keep.
    """

    name = "topk"
    for_logits = True

    def __init__(self, k: int) -> None:
        if k < 1:
            raise ValueError(f"topk needs k >= 1, got {k}")
        self.k = k

    @property
    def params(self) -> dict[str, Any]:
        return {"k": self.k}

    def layout(self, shape: tuple[int, ...]) -> RecordLayout:
        if len(shape) != 1 or shape[0] < self.k:
            raise ValueError(f"topk={self.k} stores logits of at least {self.k} classes, got shape {shape}")
        return RecordLayout.structured({"index": ("<i4", (self.k,)), "values": ("<f2", (self.k,)), "rest": ("<f4", ())})

    def encode(self, values: Array) -> dict[str, Array]:
        order = np.argsort(-values, axis=-1, kind="stable")
        kept, others = order[:, : self.k], order[:, self.k :]
        with np.errstate(over="ignore"):
            largest = np.take_along_axis(values, kept, axis=-1).astype("<f2")
        return {"index": kept.astype("<i4"), "values": largest, "rest": _log_sum_exp(values, others).astype("<f4")}

    def decode(self, fields: Fields, shape: tuple[int, ...]) -> Array:
        """Logits (B, K) in which all classes that were not kept share the rest equally."""
        num_others = shape[0] - self.k
        share = fields["rest"].astype(np.float32) - np.log(np.float32(max(num_others, 1)))
        logits = np.repeat(share[:, None], shape[0], axis=1)
        np.put_along_axis(logits, fields["index"].astype(np.int64), fields["values"].astype(np.float32), axis=-1)
        return logits


def _log_sum_exp(values: Array, columns: Array) -> Array:
    if columns.shape[1] == 0:
        return np.full(len(values), -np.inf, np.float32)
    chosen = np.take_along_axis(values, columns, axis=-1).astype(np.float64)
    largest = chosen.max(axis=-1, keepdims=True)
    return (largest[:, 0] + np.log(np.exp(chosen - largest).sum(axis=-1))).astype(np.float32)
