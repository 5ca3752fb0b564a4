"""The k largest class logits, and one logit for each of the others."""

import numpy as np

from kdcache.cache.codecs.kept import KeptLogits
from kdcache.cache.record import Array


class TopK(KeptLogits):
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
