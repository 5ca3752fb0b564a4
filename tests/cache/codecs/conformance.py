"""What every codec must do: `Conformance`, for the codecs of a test module's fixture ``case``."""

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from kdcache.cache.codecs import Codec, Packed
from kdcache.cache.facts import ColumnFacts
from kdcache.stream.targets import PackedTargets, field_dtype
from kdcache.teacher.device_encoding import DeviceEncoder


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


def samples(shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Batches that have broken codecs before."""
    random = np.random.default_rng(3)
    normal = random.standard_normal((4, *shape))
    outlier = normal.copy()
    outlier[..., 0] *= 1000
    massive, some, largest = normal.copy(), normal.copy(), normal / np.abs(normal).max(axis=-1, keepdims=True) * 65504
    massive[..., -1] += 300
    some[0, ..., -1] += 300
    return {
        name: values.astype(np.float32)
        for name, values in {
            "normal": normal,
            "outlier channel": outlier,
            "a channel at +300": massive,
            "a channel at +300 in some records": some,
            "+-65504": largest,
            "zeros": np.zeros((2, *shape)),
            "small": normal * 1e-7,
            "tiny": normal * 1e-30,
            "subnormal": normal * 1e-40,
            "constant": np.full((2, *shape), -3.25),
            "negative": -np.abs(normal),
            "one record": normal[:1],
            "no records": normal[:0],
        }.items()
    }


def column_of(case: Case) -> ColumnFacts:
    """A column with this codec."""
    return ColumnFacts(
        name="c", tap="t", kind="patch", codec=case.codec.name, params=case.codec.params,
        shape=list(case.shape), grid=[], stride_bytes=0,
    )  # fmt: skip


def packed_targets(case: Case, fields: dict[str, np.ndarray]) -> PackedTargets:
    """Encoded fields as the stream delivers them."""
    column = column_of(case)
    tensors: dict[str, torch.Tensor] = {}
    for field in case.codec.layout(case.shape).fields:
        values = torch.from_numpy(fields[field.name].copy())
        tensors[field.name] = values.view(field_dtype(field, case.codec.packed))
    return PackedTargets(column, tensors)


def channel_errors(codec: Codec, tokens: np.ndarray) -> np.ndarray:
    """The error of each channel of (B, N, C) tokens as a fraction of its spread, (C,)."""
    error = codec.decode(codec.encode(tokens), tokens.shape[1:]).astype(np.float64) - tokens
    return np.sqrt(np.square(error).mean((0, 1))) / tokens.std((0, 1))


@pytest.mark.parametrize("batch", list(samples((1,))))
class Conformance:
    """Every codec on every batch."""

    def test_the_error_is_bounded(self, case: Case, batch: str) -> None:
        values = samples(case.shape)[batch]
        decoded = case.codec.decode(case.codec.encode(values), case.shape)
        assert decoded.dtype == np.float32
        assert decoded.shape == values.shape
        error = np.abs(decoded.astype(np.float64) - values)
        assert (error <= case.bound(values.astype(np.float64)) + 1e-38).all()

    def test_fields_fit_the_layout_and_survive_npy(self, case: Case, batch: str) -> None:
        fields = case.codec.encode(samples(case.shape)[batch])
        layout = case.codec.layout(case.shape)
        for number, payload in enumerate(layout.pack(fields)):
            loaded = np.load(io.BytesIO(layout.header + payload.tobytes()), allow_pickle=False)
            for field in layout.fields:
                found = loaded if len(layout.fields) == 1 else loaded[field.name]
                np.testing.assert_array_equal(found, fields[field.name][number])

    def test_records_do_not_depend_on_their_neighbours(self, case: Case, batch: str) -> None:
        values = samples(case.shape)[batch]
        layout = case.codec.layout(case.shape)
        together = layout.pack(case.codec.encode(values))
        for number in range(len(values)):
            alone = layout.pack(case.codec.encode(values[number : number + 1]))
            np.testing.assert_array_equal(together[number : number + 1], alone)

    def test_torch_decodes_the_same_bits(self, case: Case, batch: str) -> None:
        fields = case.codec.encode(samples(case.shape)[batch])
        expected = case.codec.decode(fields, case.shape)
        np.testing.assert_array_equal(packed_targets(case, fields).decode().numpy(), expected)

    def test_the_declaration_names_the_fields(self, case: Case, batch: str) -> None:
        layout, packed = case.codec.layout(case.shape), case.codec.packed
        for field in layout.fields:
            assert field_dtype(field, packed).itemsize == field.dtype.itemsize
            if isinstance(packed, Packed):
                assert field.shape == (case.shape if field.name == packed.values else case.shape[:-1])
        if packed is not None:
            assert {name for name in vars(packed).values() if name} - {getattr(packed, "torch_dtype", None)} == {
                field.name for field in layout.fields
            }

    def test_a_device_gives_the_same_bytes(self, case: Case, batch: str) -> None:
        """Where the codec says that one can; a teacher's batch is never empty."""
        values = samples(case.shape)[batch]
        if case.codec.device_form is None or len(case.shape) != 2 or not len(values):
            return
        facts = column_of(case)
        encoding = DeviceEncoder(facts, with_moments=True).start(torch.from_numpy(values))
        payload = encoding.payload.numpy()
        np.testing.assert_array_equal(payload, case.codec.layout(case.shape).pack(case.codec.encode(values)))
