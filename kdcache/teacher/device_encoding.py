"""Encoding a batch where the teacher runs: packed bytes and a few sums are all that leaves the device."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np
import torch
from torch import Tensor

from kdcache.cache.codecs import Packed
from kdcache.cache.encoded import EncodedRecords
from kdcache.cache.facts import ColumnFacts
from kdcache.cache.fidelity import Fidelity
from kdcache.cache.record import Array
from kdcache.cache.token_sums import Moments, TokenSums
from kdcache.ops import quantize, second_moment
from kdcache.stream.targets import decode, field_dtype

# Squares of smaller tokens lose digits in float32.
_SMALLEST_ENERGY = 1e-30


def can_encode_on_device(facts: ColumnFacts) -> bool:
    """Whether a device can give the bytes of a column's codec: tokens, by a codec that says how."""
    return facts.kind != "pixels" and len(facts.shape) == 2 and facts.make_codec().device_form is not None


@dataclass(frozen=True)
class EncodingOnItsWay:
    """Records of one column whose copies to the host may still be running.

    Args:
        values: (B, N, C), the teacher's, on its device.
        payload: (B, payload_bytes) uint8, on the host.
        sums: (S,) float64, on the host: the numbers of `_sums` one after the other.
        sizes: How many each of them has.
        shape: Of a record.
    """

    values: Tensor
    payload: Tensor
    sums: Tensor
    sizes: Sequence[int]
    shape: tuple[int, ...]

    def finish(self) -> EncodedRecords | None:
        """The records, once the copies are done; None for values that must be looked at in full precision, which are
        those that are not finite or whose squares leave the range of float32.
        """
        cuts = accumulate(self.sizes, initial=0)
        parts: list[Array] = [self.sums[first:last].numpy() for first, last in pairwise(cuts)]
        totals, lost, num_extreme, num_zero, columns, squares, mean, m2, minimum, maximum, raw, unit = parts
        if num_extreme[0]:
            return None
        num_channels, num_tokens = self.shape[-1], len(self.payload) * self.shape[0]
        moment_shape = (num_channels, num_channels) if raw.size else (0, 0)
        return EncodedRecords(
            self.payload.numpy(),
            TokenSums(
                column_sums=columns.reshape(-1, num_channels),
                squares=squares,
                moments=Moments(num_tokens, mean, m2),
                minimum=minimum,
                maximum=maximum,
                raw_moment=raw.reshape(moment_shape),
                unit_moment=unit.reshape(moment_shape),
                num_zero_tokens=int(num_zero[0]),
            ),
            Fidelity.from_arrays(np.append(totals, num_tokens), lost.reshape(3, num_channels)),
        )


class DeviceEncoder:
    """Encodes the records of one column on a device.

    Args:
        facts: A column for which `can_encode_on_device`.
        with_moments: Whether its index keeps second moments.
    """

    def __init__(self, facts: ColumnFacts, *, with_moments: bool) -> None:
        self.facts = facts
        self._codec = facts.make_codec()
        self._layout = facts.layout()
        self._with_moments = with_moments

    def start(self, values: Tensor) -> EncodingOnItsWay:
        """Queue everything for one batch, copies to the host included, without waiting.

        Args:
            values: (B, N, C) float32 on the device, B and N at least 1.
        """
        fields = self._encode(values)
        decoded = decode(fields, self._codec, tuple(self.facts.shape))
        parts = [fields[field.name].contiguous().view(torch.uint8).flatten(1) for field in self._layout.fields]
        sums = _sums(values, decoded, with_moments=self._with_moments)
        flat = torch.cat([part.double().flatten() for part in sums])
        return EncodingOnItsWay(
            values,
            torch.cat(parts, dim=1).to("cpu", non_blocking=True),
            flat.to("cpu", non_blocking=True),
            [part.numel() for part in sums],
            tuple(values.shape[1:]),
        )

    def _encode(self, values: Tensor) -> dict[str, Tensor]:
        packed = self._codec.packed
        form = self._codec.device_form
        if form == "cast":
            [field] = self._layout.fields
            return {field.name: values.to(field_dtype(field, packed))}
        if form == "fields":
            return self._codec.encode_fields(values, torch)
        assert form is not None and isinstance(packed, Packed) and packed.scale is not None, "8-bit values have a scale"
        stored, scale, *_ = quantize(values.contiguous(), codec=form)
        return {packed.values: stored, packed.scale: scale}


def _sums(values: Tensor, decoded: Tensor, *, with_moments: bool) -> list[Tensor]:
    """The five totals of Fidelity and what it keeps of each channel; tokens of extreme size, tokens of zeros; then the
    fields of TokenSums from `column_sums` on.
    """
    wide = torch.float64
    energy, kept = (each.square().sum(-1, dtype=wide) for each in (values, decoded))
    dot = (values * decoded).sum(-1, dtype=wide)
    channel_error = (values - decoded).square().sum((0, 1), dtype=wide)
    valid = (energy > 0) & (kept > 0)
    cosine = (dot / (energy * kept).sqrt()).where(valid, 0).sum()
    totals = torch.stack([energy.sum(), channel_error.sum(), kept.sum(), cosine, valid.sum().to(wide)])
    lost = torch.stack([*_moments(values), channel_error])
    num_extreme = _is_extreme(values, energy).sum() + _is_extreme(decoded, kept).sum()
    num_tokens = decoded.shape[0] * decoded.shape[1]
    column_sums = decoded.sum(1, dtype=wide)
    mean, m2 = _moments(decoded)
    num_zero = (kept == 0).sum() if with_moments else kept.new_zeros(())
    none = decoded.new_empty(0)
    raw = second_moment(decoded) * num_tokens if with_moments else none
    unit = second_moment(decoded, unit_norm=True) * (num_tokens - num_zero) if with_moments else none
    extremes = decoded.amin((0, 1)), decoded.amax((0, 1))
    return [totals, lost, num_extreme, num_zero, column_sums, kept.sum(-1), mean, m2, *extremes, raw, unit]


def _moments(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of each channel, and sum of squared deviations from it, (C,) each."""
    num_tokens = tokens.shape[0] * tokens.shape[1]
    mean = tokens.sum((0, 1), dtype=torch.float64) / num_tokens
    # Around a float32 copy of the mean: no cancellation for channels far from zero.
    shift = mean.float()
    m2 = (tokens - shift).square().sum((0, 1), dtype=torch.float64) - num_tokens * (mean - shift.double()).square()
    return mean, m2.clamp_min(0)


def _is_extreme(tokens: Tensor, energy: Tensor) -> Tensor:
    """Which tokens are not finite, or have squares that float32 does not hold."""
    tiny = (energy < _SMALLEST_ENERGY) & (tokens.abs().amax(-1) > 0)
    return ~energy.isfinite() | tiny
