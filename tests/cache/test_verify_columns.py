import shutil
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdcache.cache import open_cache
from kdcache.cache.verify_columns import record_faults
from tests.cache.support import all_faults, forge
from tests.conftest import GROUP, flip_bit


def changed_record(root: Path, name: str, record: int, at: int, data: bytes) -> None:
    """Change a record and its checksum: every hash is right, only the value is wrong."""
    cache = open_cache(root)
    shard, column = cache.manifest.shards[0], cache.column(name)
    strided = cache.strided(column, shard)
    file = bytearray(strided.path.read_bytes())
    start = strided.payload_offset(record)
    file[start + at : start + at + len(data)] = data

    def agree(index: Any) -> None:
        payload = bytes(file[start : start + strided.layout.payload_bytes])
        index.columns[column.facts.name].crc32[record] = zlib.crc32(payload)

    forge(root, shard.name, column.name, bytes(file), agree)


def test_a_good_column_has_no_faults(groups_root: Path) -> None:
    cache = open_cache(groups_root)
    for group in cache.groups.values():
        for shard in cache.manifest.shards:
            held = cache.group_index(group, shard)
            for column in group.columns:
                own = held.columns.get(column.facts.name) or held.pixels[column.facts.name]
                assert record_faults(cache, column, shard, cache.index(shard), own) == []


def test_values_that_are_not_finite_are_found_whatever_the_hashes_say(cache_copy: Path) -> None:
    changed_record(cache_copy, "blocks-0-patch-fp32", 4, 0, np.float32("nan").tobytes())
    [fault] = all_faults(cache_copy)
    assert "NaN" in fault.problem
    assert fault.part == "blocks-0-patch-fp32"


def test_impossible_top_k_indices_are_found(cache_copy: Path) -> None:
    column = open_cache(cache_copy).column("head-logits-topk3")
    [chosen] = [field for field in column.layout().fields if field.name == "index"]
    changed_record(cache_copy, column.name, 0, chosen.offset, np.int32(200).tobytes())
    [fault] = all_faults(cache_copy)
    assert "impossible index" in fault.problem


def test_a_flipped_bit_in_raw_pixels_is_found(groups_copy: Path) -> None:
    cache = open_cache(groups_copy)
    shard = cache.manifest.shards[2]
    assert cache.pixel_column is not None
    strided = cache.strided(cache.pixel_column, shard)
    flip_bit(strided.path, strided.payload_offset(3))
    [fault] = all_faults(groups_copy)
    assert (fault.group, fault.part, fault.key) == ("pixels", "raw", cache.index(shard).key(1))
    assert "view 1 bytes differ" in fault.problem


def test_a_flipped_bit_in_a_jpeg_is_found(jpeg_root: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(jpeg_root, tmp_path / "copy"))
    cache = open_cache(root)
    shard = cache.manifest.shards[1]
    held = cache.group_index(cache.groups["pixels"], shard).pixels["jpeg"]
    flip_bit(cache.path("pixels/jpeg", shard), int(held.offsets[4]) + int(held.sizes[4]) // 2)
    [fault] = all_faults(root)
    assert (fault.group, fault.part, fault.key) == ("pixels", "jpeg", cache.index(shard).key(2))
    assert "view 0 bytes differ" in fault.problem


@pytest.mark.parametrize(
    ("find", "put", "message"),
    [
        (b".v01.jpg", b".v11.jpg", "no tar header of this format"),
        (b'"statistics":"light"', b'"statistics":"lighx"', "not the fingerprint of this group"),
    ],
)
def test_jpeg_columns_with_other_members_are_found(
    jpeg_root: Path, tmp_path: Path, find: bytes, put: bytes, message: str
) -> None:
    root = Path(shutil.copytree(jpeg_root, tmp_path / "copy"))
    cache = open_cache(root)
    path = cache.path("pixels/jpeg", cache.manifest.shards[0])
    data = path.read_bytes()
    assert find in data
    forge(root, "train-000000", "pixels/jpeg", data.replace(find, put, 1))
    assert any(message in fault.problem for fault in all_faults(root))


def test_a_column_of_another_group_is_refused(groups_copy: Path) -> None:
    """The two groups' logits have the same headers, and zeros behind a tar say nothing; the fingerprint does."""
    cache = open_cache(groups_copy)
    shard = cache.manifest.shards[0]
    own, other = (cache.path(f"{group}/head-logits-fp16", shard).read_bytes() for group in (GROUP, "wide"))
    other = other.rstrip(b"\0").ljust(len(own), b"\0")
    assert len(other) == len(own)
    forge(groups_copy, shard.name, f"{GROUP}/head-logits-fp16", other)
    assert [fault.part for fault in all_faults(groups_copy)] == ["head-logits-fp16"]
