import zlib
from pathlib import Path

import numpy as np
import pytest

from kdcache.cache import Cache, Group, open_cache
from kdcache.cache.group_writer import GroupShardWriter, PixelBuilder
from kdcache.cache.paths import CachePaths
from kdcache.cache.tar import read_members
from kdcache.errors import BadRecordError, Remedy
from tests.conftest import GROUP

NAMES = [("a", 0), ("a", 1)]


@pytest.fixture
def group(tiny_cache: Cache) -> Group:
    return tiny_cache.groups[GROUP]


def writer_for(cache: Cache, group: Group, root: Path) -> GroupShardWriter:
    root.mkdir(exist_ok=True)
    fingerprint = group.manifest.fingerprint
    return GroupShardWriter(CachePaths(root), fingerprint, cache.manifest.fingerprint, "train-000000")


def values_for(group: Group, count: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {column.tap: random.standard_normal((count, *column.shape)).astype(np.float32) for column in group.columns}


def test_nothing_is_visible_before_commit(tiny_cache: Cache, group: Group, tmp_path: Path) -> None:
    with writer_for(tiny_cache, group, tmp_path / "g") as writer:
        writer.add_records(NAMES, values_for(group, 2))
        visible = [path for path in (tmp_path / "g").rglob("*") if path.is_file() and not path.name.startswith(".")]
        assert visible == []
    assert not [path for path in (tmp_path / "g").rglob("*") if path.is_file()]


def test_the_index_names_every_column(tiny_cache: Cache, group: Group, tmp_path: Path) -> None:
    with writer_for(tiny_cache, group, tmp_path / "g") as writer:
        writer.add_records(NAMES, values_for(group, 2))
        index = writer.commit()
    assert set(index.files) == set(index.columns) == {column.facts.name for column in group.columns}
    for part, facts in index.files.items():
        assert CachePaths(tmp_path / "g").shard(part, "train-000000").stat().st_size == facts.size_bytes


def test_the_fingerprint_is_the_last_member_so_that_records_begin_at_0(
    tiny_cache: Cache, group: Group, tmp_path: Path
) -> None:
    with writer_for(tiny_cache, group, tmp_path / "g") as writer:
        writer.add_records(NAMES, values_for(group, 2))
        writer.commit()
    for column in group.columns:
        path = CachePaths(tmp_path / "g").shard(column.facts.name, "train-000000")
        assert [member.name for member in read_members(path)] == ["a.v00.npy", "a.v01.npy", "__kdcache__"]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused_by_name(
    tiny_cache: Cache, group: Group, tmp_path: Path, bad: float
) -> None:
    values = values_for(group, 2)
    values["blocks.1/patch"][1, 3, 5] = bad
    message = r"key 'a', view 1, tap blocks.1/patch at position \[3, 5\]"
    with writer_for(tiny_cache, group, tmp_path / "g") as writer, pytest.raises(BadRecordError, match=message):
        writer.add_records(NAMES, values)


def test_values_beyond_the_codec_are_refused_with_the_remedy(tiny_cache: Cache, group: Group, tmp_path: Path) -> None:
    values = values_for(group, 2)
    values["blocks.1/patch"][0, 0, 0] = 1e5
    message = r"codec fp16 makes .* inf "
    with (
        writer_for(tiny_cache, group, tmp_path / "g") as writer,
        pytest.raises(BadRecordError, match=message) as caught,
    ):
        writer.add_records(NAMES, values)
    assert caught.value.remedy is Remedy.WIDER_CODEC


def test_fidelity_is_measured_on_what_is_written(tiny_cache: Cache, group: Group, tmp_path: Path) -> None:
    with writer_for(tiny_cache, group, tmp_path / "g") as writer:
        writer.add_records(NAMES, values_for(group, 2))
        errors = {name: each.summary()["relative_error"] for name, each in writer.fidelity.items()}
    assert errors["blocks-0-patch-fp32"] == 0.0
    assert 0 < errors["blocks-1-patch-fp16"] < errors["blocks-1-patch-bf16"] < 0.01


def test_pixels_lie_where_the_index_says(groups_root: Path, tmp_path: Path) -> None:
    cache = open_cache(groups_root)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    with writer_for(cache, cache.groups["pixels"], tmp_path / "g") as writer:
        writer.add_records(NAMES, {})
        writer.add_pixels(NAMES, pixels, None)
        found = writer.commit().pixels["raw"]
    data = CachePaths(tmp_path / "g").shard("raw", "train-000000").read_bytes()
    for record, (offset, size) in enumerate(zip(found.offsets, found.sizes, strict=True)):
        payload = data[offset : offset + size]
        assert payload == pixels[record].tobytes()
        assert zlib.crc32(payload) == found.crc32[record]


def test_jpeg_files_are_stored_as_they_are(jpeg_root: Path, tmp_path: Path) -> None:
    cache = open_cache(jpeg_root)
    pixels = np.zeros((2, 16, 16, 3), np.uint8)
    with writer_for(cache, cache.groups["pixels"], tmp_path / "g") as writer:
        writer.add_pixels(NAMES, pixels, [b"first file", b"second"])
        found = writer.commit().pixels["jpeg"]
    path = CachePaths(tmp_path / "g").shard("jpeg", "train-000000")
    assert [member.name for member in read_members(path)] == ["a.v00.jpg", "a.v01.jpg", "__kdcache__"]
    offset, size = int(found.offsets[1]), int(found.sizes[1])
    assert path.read_bytes()[offset : offset + size] == b"second"


def test_a_column_of_no_pixels_has_an_index(jpeg_root: Path) -> None:
    facts = open_cache(jpeg_root).groups["pixels"].columns[0].facts
    index = PixelBuilder(facts).finish()
    assert (len(index.crc32), index.crc32.dtype) == (0, np.uint32)
