from pathlib import Path

import pytest

from kdcache.cache import Cache
from kdcache.cache.job import read_ledger
from kdcache.cache.paths import CachePaths
from kdcache.cache.sample import Sample
from kdcache.cache.shard import read_meta
from kdcache.cache.tar import read_members
from kdcache.cache.writer import BadSample, BaseShardWriter
from kdcache.errors import ShardConflictError
from tests.cache.sample_support import sample_named

BAD = [BadSample(1, "b", "b.jpg", "empty file")]


def writer_for(cache: Cache, root: Path) -> BaseShardWriter:
    root.mkdir(exist_ok=True)
    return BaseShardWriter(CachePaths(root), cache.manifest.fingerprint, "train-000000")


def files_below(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file()]


def test_nothing_is_visible_before_commit(tiny_cache: Cache, tmp_path: Path) -> None:
    with writer_for(tiny_cache, tmp_path / "c") as writer:
        writer.add_sample(sample_named("a"), b"image", "pgm")
        assert [path for path in files_below(tmp_path / "c") if not path.name.startswith(".")] == []
    assert files_below(tmp_path / "c") == []


def test_the_index_names_every_file_of_the_shard(tiny_cache: Cache, tmp_path: Path) -> None:
    with writer_for(tiny_cache, tmp_path / "c") as writer:
        writer.add_sample(sample_named("a"), b"image", "pgm")
        index = writer.commit(BAD)
    paths = CachePaths(tmp_path / "c")
    assert set(index.files) == {"samples", "ledger"}
    for part, facts in index.files.items():
        assert paths.shard(part, "train-000000").stat().st_size == facts.size_bytes
    assert read_ledger(paths.shard("ledger", "train-000000")) == BAD


def test_the_fingerprint_is_the_first_member_and_an_image_follows_its_record(tiny_cache: Cache, tmp_path: Path) -> None:
    with writer_for(tiny_cache, tmp_path / "c") as writer:
        writer.add_sample(sample_named("a"), b"image", "pgm")
        index = writer.commit([])
    path = CachePaths(tmp_path / "c").shard("samples", "train-000000")
    assert [member.name for member in read_members(path)] == ["__kdcache__", "a.json", "a.pgm"]
    assert read_meta(path) == read_meta(tiny_cache.path("samples", tiny_cache.manifest.shards[0]))
    start, size = int(index.image_offsets[0]), int(index.image_sizes[0])
    assert path.read_bytes()[start : start + size] == b"image"


def test_another_content_for_the_same_shard_is_a_conflict(tiny_cache: Cache, tmp_path: Path) -> None:
    def write(key: str) -> None:
        with writer_for(tiny_cache, tmp_path / "c") as writer:
            writer.add_sample(sample_named(key), b"image", "pgm")
            writer.commit([])

    write("a")
    write("a")
    with pytest.raises(ShardConflictError):
        write("b")


def test_a_sample_needs_all_its_views(tiny_cache: Cache, tmp_path: Path) -> None:
    one_view = sample_named("a").views[:1]
    short = Sample(**{**vars(sample_named("a")), "views": one_view, "pixel_hashes": ("00" * 16,)})
    with writer_for(tiny_cache, tmp_path / "c") as writer, pytest.raises(ValueError, match="reshape"):
        writer.add_sample(short, b"image", "pgm")
        writer.commit([])
