"""What every codec must do; a new codec is added to CASES and passes all of test_codecs.py."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from kdcache.cache.codecs import Codec, make_codec


@dataclass(frozen=True)
class Case:
    """One codec.

    Args:
        codec: The codec.
        shape: Decoded shape of a record.
        bound: Largest allowed error of each value, given the values (B, *shape).
    """

    codec: Codec
    shape: tuple[int, ...]
    bound: Callable[[np.ndarray], np.ndarray]


def _half(values: np.ndarray) -> np.ndarray:
    return np.maximum(np.abs(values) * 2.0**-11, 2.0**-25)


CASES = {
    "fp32": Case(make_codec("fp32"), (7, 5), np.zeros_like),
    "fp16": Case(make_codec("fp16"), (7, 5), _half),
    "bf16": Case(make_codec("bf16"), (7, 5), lambda values: np.abs(values) * 2.0**-8),
    "int8": Case(make_codec("int8"), (7, 5), lambda values: np.abs(values).max(-1, keepdims=True) / 253.9),
    "fp32 logits": Case(make_codec("fp32"), (9,), np.zeros_like),
    "fp16 logits": Case(make_codec("fp16"), (9,), _half),
    "topk of all": Case(make_codec("topk", {"k": 9}), (9,), _half),
}


def samples(shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Batches that have broken codecs before."""
    random = np.random.default_rng(3)
    normal = random.standard_normal((4, *shape))
    outlier = normal.copy()
    outlier[..., 0] *= 1000
    return {
        name: values.astype(np.float32)
        for name, values in {
            "normal": normal,
            "outlier channel": outlier,
            "zeros": np.zeros((2, *shape)),
            "tiny": normal * 1e-30,
            "constant": np.full((2, *shape), -3.25),
            "negative": -np.abs(normal),
            "one record": normal[:1],
            "no records": normal[:0],
        }.items()
    }
