from pathlib import Path

import numpy as np
import pytest

from kdcache.cache import Cache, open_cache
from kdcache.errors import CacheMismatchError, Remedy, SourceError
from kdcache.images import open_source
from kdcache.reading.reader import ShardReader
from kdcache.stream import images as images_module
from kdcache.stream.images import ViewReplayer
from kdcache.teacher.extract import extract
from kdcache.views import pixel_hash
from tests.conftest import tiny_extract


def test_every_view_is_what_the_teacher_saw(tiny_cache: Cache) -> None:
    reader = ShardReader(tiny_cache, [])
    replayer = ViewReplayer(tiny_cache, reader, None, check_share=1.0)
    for sample in range(20):
        shard, row = reader.locate(sample)
        pixels = list(replayer.pixels(shard, row, sample, [0, 1]))
        assert [pixel_hash(each) for each in pixels] == list(shard.index.sample(row).pixel_hashes)


def test_another_resize_is_noticed(tiny_cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    def other_library(
        images: object, views: np.ndarray, *, size: int, out: np.ndarray | None, **settings: object
    ) -> np.ndarray:
        return np.zeros((len(views), size, size, 3), np.uint8)

    monkeypatch.setattr(images_module, "replay_views", other_library)
    reader = ShardReader(tiny_cache, [])
    shard, row = reader.locate(0)
    replayer = ViewReplayer(tiny_cache, reader, None, check_share=1.0)
    with pytest.raises(CacheMismatchError, match=r"key 'digit-.*view 0: replayed pixels.*made with Pillow"):
        next(replayer.pixels(shard, row, 0, [0]))


@pytest.mark.parametrize("views_per_sample", [1, 2])
def test_rows_of_a_batch_are_the_same_pixels(tiny_cache: Cache, views_per_sample: int) -> None:
    """Whichever samples and views lie side by side, from several shards."""
    reader = ShardReader(tiny_cache, [])
    replayer = ViewReplayer(tiny_cache, reader, None, check_share=1.0)
    samples = [17, 3, 9, 0, 3]
    rows = np.array([[sample, view] for sample in samples for view in (1, 0)[:views_per_sample]])
    into = np.full((len(rows), 16, 16, 3), 77, np.uint8)
    replayer.fill(rows, into)
    for (sample, view), pixels in zip(rows.tolist(), into, strict=True):
        shard, row = reader.locate(sample)
        assert pixel_hash(pixels) == shard.index.sample(row).pixel_hashes[view]


def test_a_sample_is_decoded_once_where_its_rows_lie_side_by_side(
    tiny_cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many there are of each: a batch may begin or end within a sample."""
    replayer = ViewReplayer(tiny_cache, ShardReader(tiny_cache, []), None, check_share=1.0)
    decoded: list[int] = []
    decode = images_module.decode_files
    monkeypatch.setattr(
        images_module, "decode_files", lambda files, rule: (decoded.append(len(files)), decode(files, rule))[1]
    )
    rows = np.array([[7, 1], [3, 0], [3, 1], [9, 0], [3, 1]])
    replayer.fill(rows, np.empty((5, 16, 16, 3), np.uint8))
    assert decoded == [4]


def test_another_resize_is_noticed_in_a_batch(tiny_cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images_module, "replay_views", lambda *_, out, **__: out.fill(0))
    replayer = ViewReplayer(tiny_cache, ShardReader(tiny_cache, []), None, check_share=1.0)
    with pytest.raises(CacheMismatchError, match=r"key 'digit-.*view 1: replayed pixels.*made with Pillow"):
        replayer.fill(np.array([[5, 1]]), np.empty((1, 16, 16, 3), np.uint8))


def test_the_checked_share_is_about_what_was_asked() -> None:
    below = 0.25 * 2**32
    checked = [(s * 0x9E3779B1 + v * 0x85EBCA77) % 2**32 < below for s in range(2000) for v in range(4)]
    assert 0.22 < np.mean(checked) < 0.28


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_impossible_shares(tiny_cache: Cache, share: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        ViewReplayer(tiny_cache, ShardReader(tiny_cache, []), None, check_share=share)


class TestReferredImages:
    """A cache without images asks their source, and does not believe it."""

    @pytest.fixture
    def root(self, photos: Path, tmp_path: Path) -> Path:
        extract(tiny_extract(tmp_path / "c", data=str(photos), images="reference", taps=("head/logits",)))
        return tmp_path / "c"

    def test_the_source_is_needed(self, root: Path) -> None:
        cache = open_cache(root)
        with pytest.raises(SourceError, match="refers to its images") as caught:
            ViewReplayer(cache, ShardReader(cache, []), None, check_share=1.0)
        assert caught.value.remedy is Remedy.PASS_SOURCE

    def test_and_gives_the_same_pixels(self, root: Path, photos: Path) -> None:
        cache = open_cache(root)
        reader = ShardReader(cache, [])
        replayer = ViewReplayer(cache, reader, open_source(str(photos)), check_share=1.0)
        for sample in range(6):
            shard, row = reader.locate(sample)
            assert len(list(replayer.pixels(shard, row, sample, [0, 1]))) == 2

    def test_a_changed_image_is_named(self, root: Path, photos: Path) -> None:
        cache = open_cache(root)
        for path in photos.rglob("*.*"):
            path.write_bytes(path.read_bytes() + b"\0")
        reader = ShardReader(cache, [])
        shard, row = reader.locate(0)
        replayer = ViewReplayer(cache, reader, open_source(str(photos)), check_share=0)
        with pytest.raises(CacheMismatchError, match="has changed since the extraction"):
            next(replayer.pixels(shard, row, 0, [0]))

    def test_a_missing_image_is_named(self, root: Path, photos: Path) -> None:
        cache = open_cache(root)
        (photos / "cat" / "1.JPEG").unlink()
        reader = ShardReader(cache, [])
        replayer = ViewReplayer(cache, reader, open_source(str(photos)), check_share=0)
        with pytest.raises(SourceError, match=r"cat/1.JPEG"):
            for sample in range(6):
                shard, row = reader.locate(sample)
                next(replayer.pixels(shard, row, sample, [0]))
