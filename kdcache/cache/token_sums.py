"""What some records add to a column's index, wherever it was computed: by numpy here, or on the teacher's device."""

from dataclasses import dataclass

import numpy as np

from kdcache.cache.record import Array


@dataclass(frozen=True, kw_only=True)
class TokenSums:
    """Sums over the decoded tokens of B records, in float64; extremes and moments may be float32.

    Args:
        num_tokens: T, tokens of all records together.
        column_sums: (B, C) sums over the tokens of each record.
        squares: (B,) sum of squares of each record.
        mean: (C,) over all tokens.
        m2: (C,) sum of squared deviations from it.
        minimum, maximum: (C,).
        raw_moment: (C, C) sum over tokens of x xᵀ; (0, 0) without moments.
        unit_moment: (C, C) sum over tokens other than zero of x xᵀ / ‖x‖²; (0, 0) without moments.
        num_zero_tokens: Tokens of zero energy; 0 without moments.
    """

    num_tokens: int
    column_sums: Array
    squares: Array
    mean: Array
    m2: Array
    minimum: Array
    maximum: Array
    raw_moment: Array
    unit_moment: Array
    num_zero_tokens: int


def sum_tokens(features: Array, *, with_moments: bool) -> TokenSums:
    """The sums of some records.

    Args:
        features: (B, N, C) float32, perhaps no records; logits as (B, 1, K), embeddings as (B, 1, C).
        with_moments: Whether to compute the two second moments.
    """
    num_channels = features.shape[-1]
    column_sums = features.sum(axis=1, dtype=np.float64)
    tokens = features.reshape(-1, num_channels)
    energy = np.einsum("tc,tc->t", tokens, tokens, dtype=np.float64)
    raw, unit, num_zero = _second_moments(tokens, energy) if with_moments else (np.zeros((0, 0)), np.zeros((0, 0)), 0)
    mean = column_sums.sum(axis=0) / max(len(tokens), 1)
    # Squares are taken around a float32 copy of the mean: fast, and no cancellation for channels far from zero.
    shift = mean.astype(np.float32)
    centred = tokens - shift
    return TokenSums(
        num_tokens=len(tokens),
        column_sums=column_sums,
        squares=energy.reshape(features.shape[:2]).sum(axis=1),
        mean=mean,
        m2=np.einsum("tc,tc->c", centred, centred, dtype=np.float64) - len(tokens) * np.square(mean - shift),
        minimum=tokens.min(axis=0, initial=np.inf),
        maximum=tokens.max(axis=0, initial=-np.inf),
        raw_moment=raw,
        unit_moment=unit,
        num_zero_tokens=num_zero,
    )


def _second_moments(tokens: Array, energy: Array) -> tuple[Array, Array, int]:
    nonzero = energy > 0
    unit = tokens[nonzero] / np.sqrt(energy[nonzero, None]).astype(np.float32)
    return tokens.T @ tokens, unit.T @ unit, int(len(tokens) - nonzero.sum())
