from pathlib import Path

import numpy as np
import pytest

from kdcache.cache import Cache
from kdcache.cache.paths import CachePaths
from kdcache.cache.sample import Sample
from kdcache.cache.writer import BadSample, ShardWriter
from kdcache.errors import BadRecordError, Remedy


def writer_for(cache: Cache, root: Path) -> ShardWriter:
    root.mkdir(exist_ok=True)
    return ShardWriter(CachePaths(root), cache.manifest.fingerprint, "train-000000")


def values_for(cache: Cache, count: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    columns = cache.columns
    return {column.tap: random.standard_normal((count, *column.shape)).astype(np.float32) for column in columns}


def sample_named(key: str) -> Sample:
    return Sample(
        key=key, source_key=key, label=0, source_sha256="00" * 32, size=(8, 8), mode="L", orientation=1,
        views=((0,) * 9,) * 2, pixel_hashes=("00" * 16,) * 2,
    )  # fmt: skip


NAMES = [("a", 0), ("a", 1)]


def test_nothing_is_visible_before_commit(tiny_cache: Cache, tmp_path: Path) -> None:
    with writer_for(tiny_cache, tmp_path / "c") as writer:
        writer.add_sample(sample_named("a"), b"image", "pgm")
        writer.add_records(NAMES, values_for(tiny_cache, 2))
        visible = [path for path in (tmp_path / "c").rglob("*") if path.is_file() and not path.name.startswith(".")]
        assert visible == []
    assert not [path for path in (tmp_path / "c").rglob("*") if path.is_file()]


def test_the_index_names_every_file_of_the_shard(tiny_cache: Cache, tmp_path: Path) -> None:
    with writer_for(tiny_cache, tmp_path / "c") as writer:
        writer.add_sample(sample_named("a"), b"image", "pgm")
        writer.add_records(NAMES, values_for(tiny_cache, 2))
        index = writer.commit([BadSample(1, "b", "b.jpg", "empty file")])
    columns = {column.name for column in tiny_cache.columns}
    assert set(index.files) == {"samples", "ledger", *columns}
    for part, facts in index.files.items():
        assert CachePaths(tmp_path / "c").shard(part, "train-000000").stat().st_size == facts.size_bytes


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused_by_name(tiny_cache: Cache, tmp_path: Path, bad: float) -> None:
    values = values_for(tiny_cache, 2)
    values["blocks.1/patch"][1, 3, 5] = bad
    message = r"key 'a', view 1, tap blocks.1/patch at position \[3, 5\]"
    with writer_for(tiny_cache, tmp_path / "c") as writer, pytest.raises(BadRecordError, match=message):
        writer.add_records(NAMES, values)


def test_values_beyond_the_codec_are_refused_with_the_remedy(tiny_cache: Cache, tmp_path: Path) -> None:
    values = values_for(tiny_cache, 2)
    values["blocks.1/patch"][0, 0, 0] = 1e5
    message = r"codec fp16 makes .* inf "
    with writer_for(tiny_cache, tmp_path / "c") as writer, pytest.raises(BadRecordError, match=message) as caught:
        writer.add_records(NAMES, values)
    assert caught.value.remedy is Remedy.WIDER_CODEC
