"""Stored pixels: the same batches as replayed views, with every promise of a stream, and no image needed."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdcache.cache import Cache, open_cache
from kdcache.errors import CorruptCacheError, SourceError, UsageError
from kdcache.reading.reader import ShardReader
from kdcache.stream.config import StreamConfig
from kdcache.stream.loader import CacheLoader
from kdcache.stream.pixels import StoredJpegs, can_deliver_pixels, gathered, stored_pixels
from kdcache.teacher.extract import extract
from kdcache.views import pixel_hash
from tests.conftest import flip_bit, tiny_add, tiny_extract
from tests.stream.contract import assert_stream_contract, epochs, fingerprints
from tests.stream.modes import MODES

STORED = ["groups_root", "jpeg_root"]


@pytest.fixture
def root(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(request.param)


def make(cache: Cache, rank: int = 0, world_size: int = 1, **changes: Any) -> CacheLoader:
    settings = {"batch_size": 4, "num_threads": 2, "window": 2, "check_pixels": 1.0, **changes}
    return CacheLoader(cache, cache.columns, StreamConfig(**settings), rank=rank, world_size=world_size)


def pixels_of(cache: Cache, **changes: Any) -> dict[tuple[int, int], np.ndarray]:
    """The pixels of every record, by sample and view."""
    found: dict[tuple[int, int], np.ndarray] = {}
    for batch in make(cache, views_per_sample=2, **changes):
        assert batch.pixels is not None
        rows = zip(batch.samples.tolist(), batch.views.tolist(), batch.pixels.numpy(), strict=True)
        found |= {(sample, view): pixels.copy() for sample, view, pixels in rows}
    return found


def damage_jpeg(root: Path) -> None:
    """Overwrite the beginning of the first stored JPEG."""
    cache = open_cache(root)
    shard = cache.manifest.shards[0]
    index = cache.group_index(cache.group("pixels"), shard)
    path = cache.path("pixels/jpeg", shard)
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(int(index.pixels["jpeg"].offsets[0]))
        file.write(b"\0" * 16)


@pytest.mark.parametrize("root", STORED, indirect=True)
@pytest.mark.parametrize("changes", [{}, {"views_per_sample": 2}, {"shuffle": False, "tail": "pad", "batch_size": 8}])
def test_batches_equal_replayed_ones(root: Path, changes: dict[str, Any]) -> None:
    cache = open_cache(root)
    stored = epochs(make(cache, pixels="stored", **changes), 2)
    assert stored == epochs(make(cache, pixels="replay", **changes), 2)
    chosen = make(cache, **changes)
    assert chosen.records.pixels is not None
    assert stored == epochs(chosen, 2)


@pytest.mark.parametrize("root", STORED, indirect=True)
def test_pixels_are_those_the_teacher_saw(root: Path) -> None:
    cache = open_cache(root)
    found, first = pixels_of(cache, pixels="stored"), 0
    assert len(found) == cache.manifest.num_records
    for shard in cache.manifest.shards:
        index = cache.index(shard)
        for row in range(len(index)):
            hashes = tuple(pixel_hash(found[first + row, view]) for view in range(2))
            assert hashes == index.sample(row).pixel_hashes
        first += len(index)


@pytest.mark.parametrize("root", STORED, indirect=True)
@pytest.mark.parametrize("access", MODES)
@pytest.mark.slow
def test_the_contract_of_a_stream(root: Path, access: str) -> None:
    """Each record once, the same order on every number of ranks, resuming at every step."""
    cache = open_cache(root)
    assert_stream_contract(lambda **ranks: make(cache, pixels="stored", access=access, **ranks))


@pytest.mark.parametrize("root", STORED, indirect=True)
def test_a_state_is_that_of_a_replayed_stream(root: Path) -> None:
    """Where pixels come from is no part of the position: a run may resume with another origin."""
    cache = open_cache(root)
    whole = epochs(make(cache, pixels="replay"), 1)
    loader = make(cache, pixels="stored")
    batches = iter(loader)
    assert [fingerprints(next(batches)) for _ in range(2)] == whole[:2]
    resumed = make(cache, pixels="replay")
    resumed.load_state_dict(loader.state_dict())
    assert epochs(resumed, 1) == whole[2:]


@pytest.mark.parametrize("pixels", ["raw", "jpeg:80"])
def test_a_cache_that_refers_to_its_images_needs_no_source(photos: Path, tmp_path: Path, pixels: str) -> None:
    config = tiny_extract(tmp_path / "c", data=str(photos), images="reference", pixels=pixels, taps=("head/logits",))
    extract(config)
    shutil.rmtree(photos)
    cache = open_cache(tmp_path / "c")
    assert len(pixels_of(cache)) == 12
    with pytest.raises(SourceError, match="refers to its images"):
        make(cache, pixels="replay")
    with pytest.raises(SourceError, match="refers to its images"):
        make(cache, images="encoded")


@pytest.mark.parametrize("columns", [True, False])
def test_pixels_alone_or_with_targets(groups_root: Path, columns: bool) -> None:
    cache = open_cache(groups_root)
    config = StreamConfig(batch_size=4, num_threads=1, pixels="stored")
    loader = CacheLoader(cache, cache.columns if columns else [], config)
    wanted = pixels_of(cache, pixels="replay")
    for batch in loader:
        assert batch.pixels is not None
        assert bool(batch.targets) == columns
        for sample, view, pixels in zip(batch.samples.tolist(), batch.views.tolist(), batch.pixels, strict=True):
            np.testing.assert_array_equal(pixels.numpy(), wanted[sample, view])


def test_stored_pixels_that_are_not_there(tiny_cache: Cache) -> None:
    with pytest.raises(UsageError, match=r"no stored pixels"):
        make(tiny_cache, pixels="stored")
    assert stored_pixels(tiny_cache, "auto") is None


def test_pixels_can_be_delivered_where_they_are_stored_held_or_at_hand(
    groups_root: Path, photos: Path, tmp_path: Path
) -> None:
    embedded, referring = open_cache(groups_root), tmp_path / "refers"
    extract(tiny_extract(referring, data=str(photos), images="reference", taps=("head/logits",)))
    cache = open_cache(referring)
    assert can_deliver_pixels(embedded, "replay", has_source=False)
    assert [can_deliver_pixels(cache, "auto", has_source=known) for known in (True, False)] == [True, False]
    with pytest.raises(UsageError, match="no stored pixels"):
        can_deliver_pixels(cache, "stored", has_source=False)
    extract(
        tiny_add(
            referring, data=str(photos), teacher=None, teacher_kwargs={}, group=None, pixels="raw", precision="auto"
        )
    )
    cache = open_cache(referring)
    assert can_deliver_pixels(cache, "stored", has_source=False)
    assert not can_deliver_pixels(cache, "replay", has_source=False)


def test_the_advice_of_that_error_works(cache_copy: Path) -> None:
    extract(tiny_add(cache_copy, teacher=None, teacher_kwargs={}, group=None, pixels="raw", precision="auto"))
    cache = open_cache(cache_copy)
    assert epochs(make(cache, pixels="stored"), 1) == epochs(make(cache, pixels="replay"), 1)


def test_no_pixels_where_none_are_wanted(groups_root: Path) -> None:
    """Streams of files or of targets alone open no column of pixels."""
    cache = open_cache(groups_root)
    for images in ("encoded", "none"):
        loader = make(cache, images=images)
        assert loader.records.pixels is None
        assert next(iter(loader)).pixels is None


def test_raw_pixels_are_gathered_and_jpeg_ones_are_not(groups_root: Path, jpeg_root: Path) -> None:
    for root, is_gathered in ((groups_root, True), (jpeg_root, False)):
        cache = open_cache(root)
        column = stored_pixels(cache, "stored")
        assert column is not None
        assert gathered([], column) == ([column] if is_gathered else [])
        assert gathered(cache.columns, None) == cache.columns


@pytest.mark.parametrize("check", ["full", "background", "size"])
def test_a_damaged_jpeg_is_found(jpeg_root: Path, tmp_path: Path, check: str) -> None:
    """By its hash before any use, or when it is decoded; never a batch of other pixels."""
    root = Path(shutil.copytree(jpeg_root, tmp_path / "c"))
    damage_jpeg(root)
    loader = make(open_cache(root), check=check, views_per_sample=2, tail="pad")
    by_hash, by_decoding = r"pixels/jpeg/train-000000\.tar: bytes differ", "view 0: the stored JPEG does not decode"
    # In the background either may come first.
    message = {"full": by_hash, "size": by_decoding, "background": f"{by_hash}|{by_decoding}"}[check]
    with pytest.raises(CorruptCacheError, match=message):
        for _ in loader:
            pass


def test_a_damaged_jpeg_is_named_by_shard_key_and_view(jpeg_root: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(jpeg_root, tmp_path / "c"))
    damage_jpeg(root)
    cache = open_cache(root)
    column = stored_pixels(cache, "stored")
    assert column is not None
    filler = StoredJpegs(ShardReader(cache, [], jpegs=column, check="size", with_images=False), column)
    into = np.zeros((2, 16, 16, 3), np.uint8)
    key = cache.index(cache.manifest.shards[0]).key(0)
    with pytest.raises(CorruptCacheError, match=f"train-000000, key {key!r}, view 0: the stored JPEG does not decode"):
        filler.fill(np.array([[0, 0]]), into[:1])
    filler.fill(np.array([[0, 1], [9, 0]]), into)
    assert into.any(axis=(1, 2, 3)).all()


def test_damaged_raw_pixels_are_found(groups_copy: Path) -> None:
    cache = open_cache(groups_copy)
    column = stored_pixels(cache, "stored")
    assert column is not None
    flip_bit(cache.path(column.name, cache.manifest.shards[0]), column.layout().payload_offset + 5)
    with pytest.raises(CorruptCacheError, match="pixels/raw"):
        list(make(cache, tail="pad"))
    # Replayed views do not read them.
    assert len(pixels_of(cache, pixels="replay")) == 40
