"""A low-rank factorisation of a view's tokens around their mean, 4 bits a number."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from kdcache.cache.codecs.base import Codec
from kdcache.cache.record import Array, RecordLayout

_LARGEST = 7  # integers from -7 to 7
# The integer that the largest value of a row becomes; the one of least squared error wins.
_LEVELS = (7.0, 7.5, 8.0, 8.5, 9.0)
# Sums of integers below this are exact in float32, in whatever order.
_EXACT = 1 << 24
_MOST_WEIGHT_BITS = 14  # of an int16
_WEIGHT_DIGITS = 5  # binary digits; with the three of an integer a product has the eight of bfloat16
# What `candidates` may take of fp16's bytes; above, int4 is both smaller and finer.
_SHARES = (0.06, 0.09, 0.12, 0.16, 0.2)


class Factor(Codec):
    """RANK times (N + C) / 2 bytes a record of N tokens, and 2 a channel: for fewer bytes than int4 takes.

    Tokens minus the mean of each channel over the record become ``left @ right``: the directions among tokens in which
    they vary most, rounded to 4 bits, and what fits the tokens best by least squares given those, rounded likewise.
    So it keeps what a truncated singular value decomposition keeps, less 1 to 2 % of the energy; how much that is
    depends on the teacher alone. It pays below a quarter of fp16's bytes.

    Decoding is a product of matrices of integers, so small that float32 sums them exactly in any order, also where
    a device multiplies in bfloat16 or TF32. Encoding takes the eigenvectors of an N by N matrix from LAPACK: another
    build of it may round a few integers otherwise, as it may change the teacher's own outputs.

    Args:
        rank: Columns of the left factor, an even number.
    """

    name = "factor"
    for_logits = False

    def __init__(self, rank: int) -> None:
        if rank < 2 or rank % 2:
            raise ValueError(f"factor needs an even rank of 2 or more, got {rank}")
        self.rank = rank

    @classmethod
    def parse_argument(cls, argument: str | None) -> dict[str, Any]:
        if argument is None or not argument.isdecimal():
            raise ValueError("factor needs the rank that a view's tokens are cut to, for example factor=16")
        return {"rank": int(argument)}

    @classmethod
    def candidates(cls, shape: tuple[int, ...]) -> tuple[str, ...]:
        if len(shape) != 2:
            return ()
        bytes_a_rank = sum(shape) / 2
        wanted = (share * 2 * shape[0] * shape[1] - 2 * shape[1] for share in _SHARES)
        ranks = dict.fromkeys(int(each / bytes_a_rank) // 2 * 2 for each in wanted)
        return tuple(f"factor={rank}" for rank in ranks if 2 <= rank <= min(shape))

    @property
    def params(self) -> dict[str, Any]:
        return {"rank": self.rank}

    def layout(self, shape: tuple[int, ...]) -> RecordLayout:
        if len(shape) != 2 or min(shape) < self.rank:
            raise ValueError(
                f"factor={self.rank} stores at least {self.rank} tokens of at least {self.rank} channels, got shape "
                f"{shape}"
            )
        num_tokens, num_channels = shape
        return RecordLayout.structured(
            {
                "left": ("|u1", (num_tokens, self.rank // 2)),
                "right": ("|u1", (num_channels, self.rank // 2)),
                "weight": ("<i2", (self.rank,)),
                "scale": ("<f4", ()),
                "mean": ("<f2", (num_channels,)),
            }
        )

    def encode(self, values: Array) -> dict[str, Array]:
        # What exceeds float16 decodes to Inf or NaN: the writer refuses such a record.
        with np.errstate(over="ignore", invalid="ignore"):
            mean = values.mean(axis=1, dtype=np.float64).astype("<f2")
        spread = values.astype(np.float64) - mean.astype(np.float64)[:, None]
        finite = np.isfinite(spread).all(axis=(1, 2))
        spread[~finite] = 0
        left = _nearest(_directions(spread, self.rank))[0]
        fitted = _least_squares(left, spread)
        weight, scale = self._weights(_nearest(fitted)[1])
        step = weight * scale[:, None]
        right = _rounded(fitted, step)
        scale = np.where(finite, scale, np.nan)
        return {
            "left": _pairs(left.transpose(0, 2, 1)),
            "right": _pairs(right.transpose(0, 2, 1)),
            "weight": weight.astype("<i2"),
            "scale": scale.astype("<f4"),
            "mean": mean,
        }

    def unpack(self, fields: Mapping[str, Any], shape: tuple[int, ...], xp: Any) -> Any:
        left, right = (_integers(fields[name], self.rank, xp) for name in ("left", "right"))
        weight, scale, mean = (xp.asarray(fields[name], dtype=xp.float32) for name in ("weight", "scale", "mean"))
        sums = xp.matmul(left * weight[:, None], xp.swapaxes(right, 1, 2))
        return sums * scale[:, None, None] + mean[:, None]

    def _weights(self, steps: Array) -> tuple[Array, Array]:
        """Steps (B, r) as integers times one float32 a record: (B, r) and (B,)."""
        bits = min(_MOST_WEIGHT_BITS, int(np.log2(_EXACT // (_LARGEST**2 * self.rank))))
        largest = steps.max(axis=1)
        scale = (largest / 2.0**bits).astype(np.float32).astype(np.float64)
        ratio = steps / np.where(scale > 0, scale, 1)[:, None]
        digit = np.exp2(np.maximum(np.floor(np.log2(np.maximum(ratio, 1))) - (_WEIGHT_DIGITS - 1), 0))
        return np.clip(np.rint(ratio / digit) * digit, 1, 2**bits), scale


def _directions(spread: Array, rank: int) -> Array:
    """Columns (B, r, N) that span, of all of their number, most of the energy of (B, N, C)."""
    _, num_tokens, num_channels = spread.shape
    # Values near float32's limits have squares beyond float64's accuracy only if no value of the record is near 1.
    unit = np.abs(spread).max(axis=(1, 2), keepdims=True)
    spread = spread / np.where(unit > 0, unit, 1)
    if num_tokens <= num_channels:
        vectors = np.linalg.eigh(spread @ spread.transpose(0, 2, 1))[1][..., ::-1]
        return vectors[..., :rank].transpose(0, 2, 1)
    vectors = np.linalg.eigh(spread.transpose(0, 2, 1) @ spread)[1][..., ::-1]
    return (spread @ vectors[..., :rank]).transpose(0, 2, 1)


def _least_squares(left: Array, spread: Array) -> Array:
    """What times `left` (B, r, N) comes nearest to (B, N, C): (B, r, C)."""
    gram = left @ left.transpose(0, 2, 1)
    # Rounded columns may depend on one another, or be zero.
    gram += np.eye(gram.shape[-1]) * 1e-9 * (1 + np.trace(gram, axis1=1, axis2=2)[:, None, None])
    return np.asarray(np.linalg.solve(gram, left @ spread), np.float64)


def _nearest(rows: Array) -> tuple[Array, Array]:
    """Rows (B, r, n) as integers, and the steps (B, r) of least squared error among a few."""
    largest: Array = np.abs(rows).max(axis=-1)
    integers, step, least = np.zeros_like(rows), np.zeros_like(largest), np.full(largest.shape, np.inf)
    for level in _LEVELS:
        found = _rounded(rows, largest / level)
        error = np.square(found * (largest / level)[..., None] - rows).sum(axis=-1)
        better = error < least
        integers, step = np.where(better[..., None], found, integers), np.where(better, largest / level, step)
        least = np.minimum(least, error)
    return integers, step


def _rounded(rows: Array, step: Array) -> Array:
    return np.clip(np.rint(rows / np.where(step > 0, step, 1)[..., None]), -_LARGEST, _LARGEST)


def _pairs(integers: Array) -> Array:
    """Integers (B, n, r), two a byte: the first half of them in the lower bits."""
    shifted = (integers + _LARGEST).astype(np.uint8)
    half = shifted.shape[-1] // 2
    return np.ascontiguousarray(shifted[..., :half] | (shifted[..., half:] << 4))


def _integers(pairs: Any, rank: int, xp: Any) -> Any:
    """What `_pairs` was given, (B, n, r) float32."""
    return xp.concatenate([xp.asarray(each, dtype=xp.float32) for each in (pairs & 15, pairs >> 4)], -1) - _LARGEST
