import io

import numpy as np
import pytest

from kdcache.cache.record import RecordLayout

LAYOUTS = {
    "plain": RecordLayout.plain("<f2", (5, 3)),
    "vector": RecordLayout.plain("<f4", (7,)),
    "int8": RecordLayout.structured({"values": ("|i1", (5, 3)), "scale": ("<f4", (5,))}),
    "topk": RecordLayout.structured({"index": ("<i4", (4,)), "values": ("<f2", (4,)), "other": ("<f4", ())}),
    "long": RecordLayout.structured({"a_rather_long_field_name_" + "x" * 60: ("|i1", (5,)), "b": ("<f4", ())}),
}


def fields_of(layout: RecordLayout, count: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(1)
    return {field.name: random.integers(0, 100, (count, *field.shape)).astype(field.dtype) for field in layout.fields}


@pytest.mark.parametrize("name", LAYOUTS)
def test_numpy_reads_a_record_with_nothing_of_ours(name: str) -> None:
    layout = LAYOUTS[name]
    fields = fields_of(layout, 1)
    data = layout.header + layout.pack(fields)[0].tobytes()
    assert len(data) == layout.member_bytes
    loaded = np.load(io.BytesIO(data), allow_pickle=False)
    for field in layout.fields:
        found = loaded if len(layout.fields) == 1 else loaded[field.name]
        np.testing.assert_array_equal(found, fields[field.name][0])


@pytest.mark.parametrize("name", LAYOUTS)
def test_unpack_is_the_inverse_of_pack_without_copying(name: str) -> None:
    layout = LAYOUTS[name]
    fields = fields_of(layout, 3)
    packed = layout.pack(fields)
    strided = np.zeros((3, layout.stride_bytes), np.uint8)[:, 8 : 8 + layout.payload_bytes]
    strided[:] = packed
    for payload in (packed, strided, packed[:0]):
        unpacked = layout.unpack(payload)
        for field in layout.fields:
            np.testing.assert_array_equal(unpacked[field.name], fields[field.name][: len(payload)])
            assert len(payload) == 0 or np.shares_memory(unpacked[field.name], payload)


def test_the_header_is_one_constant_of_128_bytes() -> None:
    """Frozen: the bytes in front of every record of a (196, 384) fp16 column."""
    header = RecordLayout.plain("<f2", (196, 384)).header
    assert header == (
        b"\x93NUMPY\x01\x00v\x00{'descr': '<f2', 'fortran_order': False, 'shape': (196, 384), }".ljust(127) + b"\n"
    )
    assert all(len(layout.header) % 64 == 0 for layout in LAYOUTS.values())
    assert len(LAYOUTS["long"].header) == 192


def test_records_lie_on_block_boundaries() -> None:
    layout = RecordLayout.plain("<f2", (196, 384))
    assert layout.payload_bytes == 150_528
    assert layout.payload_offset == 640
    assert layout.stride_bytes == 512 + 151_040 == 151_552
    assert layout.stride_bytes % 512 == 0


def test_wrong_fields_are_refused() -> None:
    layout = LAYOUTS["plain"]
    with pytest.raises(ValueError, match="values"):
        layout.pack({"values": np.zeros((2, 5, 4), "<f2")})
    with pytest.raises(ValueError, match="<f4"):
        layout.pack({"values": np.zeros((2, 5, 3), "<f4")})
    with pytest.raises(ValueError, match="uint8"):
        layout.unpack(np.zeros((2, 7), np.uint8))
