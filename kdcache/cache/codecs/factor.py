"""A low-rank factorisation of a view's tokens around their mean, 8 bits a number for the first quarter and then 4."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from kdcache.cache.codecs.base import Codec
from kdcache.cache.record import Array, RecordLayout

# Largest integers of the two kinds of columns.
_FINE, _COARSE = 127, 7
# The integer that the largest value of a coarse column becomes; the one of least squared error wins.
_LEVELS = (7.0, 7.5, 8.0, 8.5, 9.0)
# Sums of integers up to this are exact in float32, in whatever order.
_EXACT = 1 << 24
_LARGEST_WEIGHT = 1 << 14  # of an int16
_WEIGHT_DIGITS = 5  # binary digits; with the three of a coarse integer a product has the eight of bfloat16
# What `candidates` may take of fp16's bytes.
_SHARES = (0.06, 0.09, 0.12, 0.16, 0.2, 0.26)


class Factor(Codec):
    """About 5/8 RANK (N + C) bytes a record of N tokens, and 2 a channel: for fewer bytes than int4 takes.

    Tokens minus the mean of each channel over the record become ``left @ right``: the directions among tokens in which
    they vary most, rounded, and what fits the tokens best by least squares given those, rounded likewise. So it keeps
    what a truncated singular value decomposition keeps, less some thousandths of the energy; how much that is depends
    on the teacher alone. The first quarter of the directions holds most of the energy and gets 8 bits a number, the
    others get 4.

    Decoding is a product of matrices of integers, so small that float32 sums them exactly in any order, also where
    a device multiplies in bfloat16 or TF32. Encoding takes the eigenvectors of an N by N matrix from LAPACK: another
    build of it may round a few integers otherwise, as it may change the teacher's own outputs.

    Args:
        rank: Columns of the left factor, an even number from 4 on.
    """

    name = "factor"
    for_logits = False
    auto_share = 0.75  # how few directions a view's tokens vary in differs between images

    def __init__(self, rank: int) -> None:
        if rank < 4 or rank % 2:
            raise ValueError(f"factor needs an even rank of 4 or more, got {rank}")
        self.rank = rank
        self._num_fine = 2 * max(1, rank // 8)

    @classmethod
    def parse_argument(cls, argument: str | None) -> dict[str, Any]:
        if argument is None or not argument.isdecimal():
            raise ValueError("factor needs the rank that a view's tokens are cut to, for example factor=16")
        return {"rank": int(argument)}

    @classmethod
    def candidates(cls, shape: tuple[int, ...]) -> tuple[str, ...]:
        if len(shape) != 2:
            return ()
        bytes_a_rank = sum(shape) * 5 / 8
        wanted = (share * 2 * shape[0] * shape[1] - 2 * shape[1] for share in _SHARES)
        ranks = dict.fromkeys(int(each / bytes_a_rank) // 2 * 2 for each in wanted)
        return tuple(f"factor={rank}" for rank in ranks if 4 <= rank <= min(shape))

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
        num_bytes = (self._num_fine + self.rank) // 2
        return RecordLayout.structured(
            {
                "left": ("|u1", (num_tokens, num_bytes)),
                "right": ("|u1", (num_channels, num_bytes)),
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
        left = self._nearest(_directions(spread, self.rank))[0]
        fitted = _least_squares(left, spread)
        weight, scale = self._weights(self._nearest(fitted)[1])
        right = _rounded(fitted, weight * scale[:, None], self._largest)
        return {
            "left": self._packed(left),
            "right": self._packed(right),
            "weight": weight.astype("<i2"),
            "scale": np.where(finite, scale, np.nan).astype("<f4"),
            "mean": mean,
        }

    def unpack(self, fields: Mapping[str, Any], shape: tuple[int, ...], xp: Any) -> Any:
        left, right = (self._integers(fields[name], xp) for name in ("left", "right"))
        weight, scale, mean = (xp.asarray(fields[name], dtype=xp.float32) for name in ("weight", "scale", "mean"))
        sums = xp.matmul(left * weight[:, None], xp.swapaxes(right, 1, 2))
        return sums * scale[:, None, None] + mean[:, None]

    @property
    def _largest(self) -> Array:
        """The largest integer of each column, (r,)."""
        return np.where(np.arange(self.rank) < self._num_fine, _FINE, _COARSE).astype(np.float64)

    def _nearest(self, rows: Array) -> tuple[Array, Array]:
        """Rows (B, r, n) as integers, and their steps (B, r): of least squared error among a few for coarse ones."""
        fine, coarse = rows[:, : self._num_fine], rows[:, self._num_fine :]
        step = np.abs(fine).max(axis=-1) / _FINE
        found = [(_rounded(fine, step, _FINE), step), _least_error(coarse)]
        integers, steps = (np.concatenate([each[part] for each in found], axis=1) for part in (0, 1))
        return integers, steps

    def _weights(self, steps: Array) -> tuple[Array, Array]:
        """Steps (B, r) as integers times one float32 a record: (B, r) and (B,).

        Of a fine column a power of two that is no smaller, so that its product with 127 has seven binary digits.
        """
        is_fine, squared = self._largest == _FINE, self._largest**2
        grown = steps * np.where(is_fine, 2, 1 + 2.0**-_WEIGHT_DIGITS)
        # A weight is at least 1, and at most what it grows to when it is rounded.
        scale = np.maximum((grown @ squared) / (_EXACT - squared.sum()), grown.max(axis=1) / _LARGEST_WEIGHT)
        scale = np.nextafter(scale.astype(np.float32), np.float32(np.inf)).astype(np.float64) * (scale > 0)
        ratio = np.maximum(steps / np.where(scale > 0, scale, 1)[:, None], 1)
        digit = np.exp2(np.maximum(np.floor(np.log2(ratio)) - (_WEIGHT_DIGITS - 1), 0))
        return np.where(is_fine, np.exp2(np.ceil(np.log2(ratio))), np.rint(ratio / digit) * digit), scale

    def _packed(self, integers: Array) -> Array:
        """Integers (B, r, n) as bytes (B, n, b): the fine ones plus 128, then the coarse ones plus 7, two a byte."""
        values = integers.transpose(0, 2, 1)
        fine = (values[..., : self._num_fine] + 128).astype(np.uint8)
        coarse = (values[..., self._num_fine :] + _COARSE).astype(np.uint8)
        half = coarse.shape[-1] // 2
        return np.concatenate([fine, coarse[..., :half] | (coarse[..., half:] << 4)], axis=-1)

    def _integers(self, packed: Any, xp: Any) -> Any:
        """What `_packed` was given, (B, n, r) float32."""
        fine, pairs = packed[..., : self._num_fine], packed[..., self._num_fine :]
        parts = ((fine, 128), (pairs & 15, _COARSE), (pairs >> 4, _COARSE))
        return xp.concatenate([xp.asarray(each, dtype=xp.float32) - zero for each, zero in parts], -1)


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


def _least_error(rows: Array) -> tuple[Array, Array]:
    """Rows (B, r, n) as coarse integers, and the steps (B, r) of least squared error among a few."""
    largest: Array = np.abs(rows).max(axis=-1)
    integers, step, least = np.zeros_like(rows), np.zeros_like(largest), np.full(largest.shape, np.inf)
    for level in _LEVELS:
        found = _rounded(rows, largest / level, _COARSE)
        error = np.square(found * (largest / level)[..., None] - rows).sum(axis=-1)
        better = error < least
        integers, step = np.where(better[..., None], found, integers), np.where(better, largest / level, step)
        least = np.minimum(least, error)
    return integers, step


def _rounded(rows: Array, step: Array, largest: Array | int) -> Array:
    """Rows (B, r, n) in steps (B, r), as integers of at most `largest`, one for all or (r,)."""
    limit = np.asarray(largest, np.float64)[..., None]
    return np.clip(np.rint(rows / np.where(step > 0, step, 1)[..., None]), -limit, limit)
