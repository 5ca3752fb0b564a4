"""How one record lies in its tar member: a constant npy header, then the fields of the codec one after the other."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

TAR_BLOCK_BYTES = 512
_NPY_MAGIC = b"\x93NUMPY\x01\x00"
_MIN_NPY_HEADER_BYTES = 128
_NPY_ALIGNMENT_BYTES = 64

Array = NDArray[Any]
Fields = Mapping[str, Array]


@dataclass(frozen=True)
class RecordField:
    """One array inside a record.

    Args:
        name: ``values`` for a plain array, else the field's name in the structured dtype.
        dtype: Little-endian numpy dtype.
        shape: Shape within one record.
        offset: Bytes from the start of the payload.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int

    @cached_property
    def size_bytes(self) -> int:
        """Bytes within one record."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class RecordLayout:
    """Bytes of one record, the same for every record of a column.

    Args:
        fields: In order, without gaps. One field named ``values`` is written as a plain npy array, several as one
            element of a structured dtype; numpy.load reads both without anything of ours.
    """

    fields: tuple[RecordField, ...]

    @classmethod
    def plain(cls, dtype: str, shape: tuple[int, ...]) -> "RecordLayout":
        """One array, for example ``<f2`` of shape (N, C)."""
        return cls((RecordField("values", np.dtype(dtype), shape, 0),))

    @classmethod
    def structured(cls, parts: Mapping[str, tuple[str, tuple[int, ...]]]) -> "RecordLayout":
        """Several arrays: {name: (dtype, shape)} in the order they lie in the record."""
        fields: list[RecordField] = []
        offset = 0
        for name, (dtype, shape) in parts.items():
            fields.append(RecordField(name, np.dtype(dtype), shape, offset))
            offset += fields[-1].size_bytes
        return cls(tuple(fields))

    @cached_property
    def payload_bytes(self) -> int:
        """Bytes of all fields."""
        return sum(field.size_bytes for field in self.fields)

    @cached_property
    def header(self) -> bytes:
        """The npy header (version 1.0), 128 bytes unless the description is unusually long."""
        first = self.fields[0]
        if len(self.fields) == 1:
            description, shape = repr(first.dtype.str), first.shape
        else:
            parts = [(field.name, field.dtype.str, field.shape) for field in self.fields]
            description, shape = repr([part if part[2] else part[:2] for part in parts]), ()
        text = f"{{'descr': {description}, 'fortran_order': False, 'shape': {shape!r}, }}".encode("ascii")
        size = max(_MIN_NPY_HEADER_BYTES, len(_NPY_MAGIC) + 2 + len(text) + 1)
        size = -(-size // _NPY_ALIGNMENT_BYTES) * _NPY_ALIGNMENT_BYTES
        body = size - len(_NPY_MAGIC) - 2
        return _NPY_MAGIC + body.to_bytes(2, "little") + text.ljust(body - 1) + b"\n"

    @property
    def member_bytes(self) -> int:
        """Size of the tar member: npy header and payload."""
        return len(self.header) + self.payload_bytes

    @property
    def payload_offset(self) -> int:
        """Bytes from the start of a record's tar header to its payload."""
        return TAR_BLOCK_BYTES + len(self.header)

    @property
    def stride_bytes(self) -> int:
        """Distance between two records of a shard: tar header, member, padding to a whole block."""
        return TAR_BLOCK_BYTES + -(-self.member_bytes // TAR_BLOCK_BYTES) * TAR_BLOCK_BYTES

    def pack(self, fields: Fields) -> Array:
        """Payload bytes of a batch.

        Args:
            fields: For each field an array of shape (B, *field.shape) of the field's dtype.

        Returns: (B, payload_bytes) uint8.
        """
        parts: list[Array] = []
        for field in self.fields:
            values = fields[field.name]
            if values.dtype != field.dtype or values.shape[1:] != field.shape:
                raise ValueError(
                    f"field {field.name}: expected {field.dtype.str} of shape (B, {field.shape}), "
                    f"got {values.dtype.str} of shape {values.shape}"
                )
            flat = np.ascontiguousarray(values).reshape(len(values), field.size_bytes // field.dtype.itemsize)
            parts.append(flat.view(np.uint8))
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)

    def unpack(self, payload: Array) -> dict[str, Array]:
        """Views of the fields in a batch of payload bytes (B, payload_bytes); rows may be strided."""
        if payload.dtype != np.uint8 or payload.shape[1:] != (self.payload_bytes,):
            raise ValueError(
                f"payload must be uint8 of shape (B, {self.payload_bytes}), got {payload.dtype} {payload.shape}"
            )
        views: dict[str, Array] = {}
        for field in self.fields:
            part = payload[:, field.offset : field.offset + field.size_bytes]
            views[field.name] = part.view(field.dtype).reshape((len(part), *field.shape))
        return views
