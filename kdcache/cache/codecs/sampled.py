"""Class probabilities by an unbiased sample: on average a student learns the teacher's distribution from it."""

import hashlib

import numpy as np

from kdcache.cache.codecs.kept import KeptLogits
from kdcache.cache.record import Array

# Far below any logit, and finite: at temperature 1 its exponential is 0 in float32.
_ABSENT = np.float32(-1e4)
_TINY = np.finfo(np.float64).tiny


class Sampled(KeptLogits):
    """6 bytes for each of k classes of a record; the others decode to a probability of 0.

    Every class is kept with a probability pi = min(1, c p), p its softmax at temperature 1 and c such that k are kept,
    and is given the probability p / pi: its own where it is always kept, else 1 / c. The expectation of what a class is
    given is therefore p, and the gradient of a cross-entropy or a Kullback-Leibler divergence is right on average too.
    `topk` gives all others one probability in every record, which is biased. Use it at temperature 1: the sample was
    drawn for that.

    Logits come back as logs of probabilities, which a softmax does not distinguish from them. The draw depends on the
    values of the record alone. Importance sampling of logits: Anshumann et al., Sparse Logit Sampling (arXiv
    2503.16870), who draw with replacement; here the classes are distinct and their number is fixed (systematic
    sampling, Madow 1949), so that large classes have no variance.

    Args:
        k: How many classes to keep.
    """

    name = "sampled"

    def encode(self, values: Array) -> dict[str, Array]:
        logits = values.astype(np.float64)
        exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True, initial=-np.inf))
        # A probability that underflowed is still above 0, so that each class that is kept has a logarithm.
        probabilities = np.maximum(exponentials / exponentials.sum(axis=-1, keepdims=True), _TINY)
        index, given = np.empty((len(values), self.k), "<i4"), np.empty((len(values), self.k))
        for row, own in enumerate(probabilities):
            index[row], given[row] = _draw(own, self.k, _uniform(values[row]))
        return {"index": index, "values": np.log(given).astype("<f2"), "other": np.full(len(values), _ABSENT, "<f4")}


def _draw(probabilities: Array, k: int, start: float) -> tuple[Array, Array]:
    """Exactly k classes of (K,), and what each is given; `start` is uniform between 0 and 1."""
    order = np.argsort(-probabilities, kind="stable")
    largest = probabilities[order]
    remaining = np.cumsum(largest[::-1])[::-1]
    # The m largest are always kept, until none of the others exceeds its share of the k - m places.
    m = int((largest[:k] * (k - np.arange(k)) <= remaining[:k]).argmax())
    ends = np.cumsum(largest[m:])
    spacing = ends[-1] / (k - m)
    drawn = np.asarray(np.searchsorted(ends, (np.arange(k - m) + start) * spacing, side="right"), np.int64)
    return np.concatenate([order[:m], order[m:][drawn]]), np.concatenate([largest[:m], np.full(k - m, spacing)])


def _uniform(values: Array) -> float:
    """A number that depends on the values alone; so far from 0 and from 1 that rounding draws no class twice."""
    digest = hashlib.blake2b(np.ascontiguousarray(values, "<f4").tobytes(), digest_size=4).digest()
    return (int.from_bytes(digest, "little") + 0.5) / 2.0**32
