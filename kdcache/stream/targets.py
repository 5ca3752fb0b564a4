"""Targets on their way to the loss: packed as the cache stores them, decoded on the device that uses them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from kdcache.cache.manifest import ColumnFacts

# bfloat16 bits travel as int16: numpy has no bfloat16, and torch can do little with uint16.
TORCH_DTYPES: dict[str, torch.dtype] = {
    "<f4": torch.float32,
    "<f2": torch.float16,
    "<u2": torch.int16,
    "|i1": torch.int8,
    "<i4": torch.int32,
}


@dataclass(frozen=True)
class PackedTargets:
    """One column's records of a batch.

    Args:
        column: What they are.
        fields: The codec's fields, each (B, *shape), contiguous.
    """

    column: ColumnFacts
    fields: Mapping[str, Tensor]

    def decode(self) -> Tensor:
        """The teacher's outputs: (B, N, C) features or (B, K) logits, float32, on the fields' device."""
        return _DECODERS[self.column.codec](self.fields, self.column)

    def to(self, device: torch.device, *, non_blocking: bool = False) -> "PackedTargets":
        """The same on another device; still packed."""
        return self.mapped(lambda values: values.to(device, non_blocking=non_blocking))

    def rows(self, part: slice) -> "PackedTargets":
        """Views of some rows."""
        return self.mapped(lambda values: values[part])

    def mapped(self, change: Callable[[Tensor], Tensor]) -> "PackedTargets":
        """The same with every field changed."""
        return PackedTargets(self.column, {name: change(values) for name, values in self.fields.items()})

    def payload_and_scale(self) -> tuple[Tensor, Tensor | None]:
        """Token codecs as the fused losses take them: values as stored, and the per-token scale if there is one."""
        values = self.fields["values"]
        return (values.view(torch.bfloat16) if self.column.codec == "bf16" else values), self.fields.get("scale")


def _decode_plain(fields: Mapping[str, Tensor], column: ColumnFacts) -> Tensor:
    return fields["values"].float()


def _decode_bf16(fields: Mapping[str, Tensor], column: ColumnFacts) -> Tensor:
    return fields["values"].view(torch.bfloat16).float()


def _decode_int8(fields: Mapping[str, Tensor], column: ColumnFacts) -> Tensor:
    return fields["values"].float() * fields["scale"].unsqueeze(-1)


def _decode_topk(fields: Mapping[str, Tensor], column: ColumnFacts) -> Tensor:
    num_classes, kept = column.shape[0], fields["index"].shape[1]
    share = fields["rest"].float() - torch.tensor(float(max(num_classes - kept, 1))).log()
    logits = share.unsqueeze(1).repeat(1, num_classes)
    return logits.scatter(1, fields["index"].long(), fields["values"].float())


_DECODERS: dict[str, Callable[[Mapping[str, Tensor], ColumnFacts], Tensor]] = {
    "fp32": _decode_plain,
    "fp16": _decode_plain,
    "bf16": _decode_bf16,
    "int8": _decode_int8,
    "topk": _decode_topk,
}
