from pathlib import Path

import msgspec
import numpy as np
import pytest

from kdcache.cache.facts import ColumnFacts, FileFacts, pixel_column
from kdcache.durable import NewFile


def test_a_file_is_known_by_the_same_facts_while_written_and_when_read(tmp_path: Path) -> None:
    with NewFile(tmp_path / "f") as file:
        file.write(b"some bytes" * 1000)
        file.commit()
    facts = FileFacts.read(tmp_path / "f")
    assert facts == FileFacts.of(file)
    assert (facts.size_bytes, len(facts.sha256), len(facts.xxh3)) == (10_000, 64, 16)


def test_raw_pixels_are_a_strided_column() -> None:
    facts = pixel_column(16, jpeg_quality=0)
    assert (facts.name, facts.kind, facts.codec, facts.params) == ("raw", "pixels", "raw", {})
    assert facts.layout().payload_bytes == 16 * 16 * 3
    assert facts.stride_bytes == facts.layout().stride_bytes
    pixels = np.arange(2 * 768, dtype=np.int64).astype(np.uint8).reshape(2, 16, 16, 3)
    np.testing.assert_array_equal(facts.layout().unpack(facts.layout().pack({"values": pixels}))["values"], pixels)


def test_jpeg_pixels_have_no_stride() -> None:
    facts = pixel_column(16, jpeg_quality=90)
    assert (facts.name, facts.params, facts.stride_bytes) == ("jpeg", {"quality": 90}, 0)


@pytest.mark.parametrize("change", [{"kind": "image"}, {"stride_bytes": "0"}, {"more": 1}])
def test_facts_are_strict(change: dict[str, object]) -> None:
    value = {**msgspec.to_builtins(pixel_column(16, jpeg_quality=0)), **change}
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(value, ColumnFacts)
