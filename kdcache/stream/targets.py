"""Targets on their way to the loss: packed as stored, decoded on the device that uses them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from kdcache.cache.codecs import Codec, Packed, PackedForm, SparseLogits
from kdcache.cache.column import Column
from kdcache.cache.record import RecordField


class Payload(NamedTuple):
    """Dense targets as the fused losses take them, ``values * scale + shift``.

    Attributes:
        values: (B, N, C) as stored.
        scale, shift: (B, N) float32, or None for 1 and 0.
    """

    values: Tensor
    scale: Tensor | None
    shift: Tensor | None

    def decode(self) -> Tensor:
        """(B, N, C) float32, equal to the bit to what the codec decodes."""
        return _dense(self.values, self.scale, self.shift)


@dataclass(frozen=True)
class PackedTargets:
    """One column's records of a batch.

    Args:
        column: What they are.
        fields: The codec's fields, each (B, *shape), contiguous, of the dtype of `field_dtype`.
    """

    column: Column
    fields: Mapping[str, Tensor]

    @property
    def packed(self) -> PackedForm | None:
        """What the fields mean, as the codec declares it; None where only the codec decodes them."""
        return self.column.make_codec().packed

    def decode(self) -> Tensor:
        """The teacher's (B, N, C) features or (B, K) logits, float32, on the fields' device."""
        return decode(self.fields, self.column.make_codec(), tuple(self.column.shape))

    def payload(self) -> Payload:
        """The fields as the fused losses take them, not decoded; float32 where only the codec decodes them.

        Raises: ValueError for sparse logits, which are not dense.
        """
        packed = self.packed
        if packed is None:
            return Payload(self.decode(), None, None)
        if isinstance(packed, SparseLogits):
            raise ValueError(
                f"column {self.column.name}: codec {self.column.codec} keeps the logits of some "
                "classes, and a fused loss takes one value for each of the teacher's; decode them first"
            )
        scale, shift = (None if name is None else self.fields[name] for name in (packed.scale, packed.shift))
        return Payload(self.fields[packed.values], scale, shift)

    def to(self, device: torch.device, *, non_blocking: bool = False) -> "PackedTargets":
        """The same on another device; still packed."""
        return self.mapped(lambda values: values.to(device, non_blocking=non_blocking))

    def rows(self, part: slice) -> "PackedTargets":
        """Views of some rows."""
        return self.mapped(lambda values: values[part])

    def mapped(self, change: Callable[[Tensor], Tensor]) -> "PackedTargets":
        """The same with every field changed."""
        return PackedTargets(self.column, {name: change(values) for name, values in self.fields.items()})


def field_dtype(field: RecordField, packed: PackedForm | None) -> torch.dtype:
    """torch's dtype for a field: what the codec declares for its values, else the name numpy has."""
    if isinstance(packed, Packed) and packed.torch_dtype is not None and field.name == packed.values:
        return getattr(torch, packed.torch_dtype)
    return torch.from_numpy(np.empty(0, field.dtype)).dtype


def decode(fields: Mapping[str, Tensor], codec: Codec, shape: tuple[int, ...]) -> Tensor:
    """Decode the fields of any codec; equal to the bit to `Codec.decode`.

    Args:
        fields: Each (B, *field.shape).
        codec: Whose they are.
        shape: Of a decoded record: (N, C), (K,) or (C,).

    Returns: (B, *shape) float32, on the fields' device.
    """
    packed = codec.packed
    if packed is None:
        # A product of matrices would come out in half precision under autocast.
        with torch.autocast(next(iter(fields.values())).device.type, enabled=False):
            return codec.unpack(fields, shape, torch)
    if isinstance(packed, SparseLogits):
        logits = fields[packed.other].float().unsqueeze(1).repeat(1, shape[0])
        return logits.scatter(1, fields[packed.index].long(), fields[packed.values].float())
    scale, shift = (None if name is None else fields[name] for name in (packed.scale, packed.shift))
    return _dense(fields[packed.values], scale, shift)


def _dense(values: Tensor, scale: Tensor | None, shift: Tensor | None) -> Tensor:
    values = values.float()
    # Two steps, each rounded, as numpy does: a fused multiply-add differs in the last bit.
    if scale is not None:
        values = values * scale.float().unsqueeze(-1)
    if shift is not None:
        values = values + shift.float().unsqueeze(-1)
    return values
