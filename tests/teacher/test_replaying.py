import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kdcache.cache import open_cache
from kdcache.cache.index import read_index
from kdcache.errors import CacheMismatchError, Remedy, SourceError
from kdcache.images import open_source
from kdcache.teacher.extract import extract
from kdcache.teacher.reading import ImageReader
from kdcache.teacher.replaying import CommittedReader, ReplayReader
from kdcache.teacher.source_plan import plan_source
from kdcache.views import ViewRecipe, pixel_hash
from tests.conftest import tiny_add, tiny_extract


def referring(photos: Path, root: Path) -> Path:
    extract(tiny_extract(root, data=str(photos), limit=None, images="reference"))
    return root


def committed(photos: Path, root: Path) -> CommittedReader:
    plan = plan_source(open_source(str(photos)), tiny_extract(root, data=str(photos), limit=None))
    cache = open_cache(root)
    views = cache.manifest.fingerprint.views
    reader = ImageReader(plan, ViewRecipe(name="rrc-flip", size=16), views, 8)
    index = read_index(cache.path("index", cache.manifest.shards[0]))
    return CommittedReader(reader, 0, index, {number: number for number in range(6)})


def another_image(photos: Path, key: str) -> None:
    pixels = np.asarray(Image.open(photos / key).convert("RGB"))
    Image.fromarray(255 - pixels).save(photos / key, format="PNG")


def test_views_are_cut_again_and_their_hashes_compared(tiny_root: Path) -> None:
    cache = open_cache(tiny_root)
    reader = ReplayReader(tiny_root, None)
    reader.check()
    number = 0
    for shard in cache.manifest.shards:
        index = cache.index(shard)
        for row in range(len(index)):
            image = reader.read(number)
            assert image.sample == index.sample(row)
            assert tuple(pixel_hash(each) for each in image.pixels) == image.sample.pixel_hashes
            assert reader.key(number) == index.key(row)
            number += 1
    assert number == 20


def test_views_that_are_jpeg_are_seen_as_jpeg_again(jpeg_root: Path) -> None:
    image = ReplayReader(jpeg_root, None).read(7)
    assert tuple(pixel_hash(each) for each in image.pixels) == image.sample.pixel_hashes


def test_it_travels_to_a_process_that_may_die(tiny_root: Path) -> None:
    reader = ReplayReader(tiny_root, None)
    reader.check()
    again = pickle.loads(pickle.dumps(reader))
    np.testing.assert_array_equal(again.read(3).pixels, reader.read(3).pixels)


def test_a_base_that_refers_to_its_images_needs_them(photos: Path, tmp_path: Path) -> None:
    root = referring(photos, tmp_path / "c")
    with pytest.raises(SourceError, match="refers to its images") as caught:
        extract(tiny_add(root))
    assert caught.value.remedy is Remedy.PASS_SOURCE
    assert not (root / "wide").exists()
    report = extract(tiny_add(root, data=str(photos)))
    assert report.num_records == 12
    assert list(open_cache(root).groups) == ["vit-tiny-patch16-224", "wide"]


def test_a_source_image_that_has_changed_is_refused_by_key(photos: Path, tmp_path: Path) -> None:
    root = referring(photos, tmp_path / "c")
    another_image(photos, "cat/5.png")
    with pytest.raises(CacheMismatchError, match="cat/5"):
        extract(tiny_add(root, data=str(photos)))
    assert "wide" not in open_cache(root).groups


def test_a_source_image_that_is_gone_is_refused_by_key(photos: Path, tmp_path: Path) -> None:
    """Never quarantined: the base has it, so a group without it would not be one."""
    root = referring(photos, tmp_path / "c")
    (photos / "cat" / "5.png").write_bytes(b"")
    with pytest.raises(CacheMismatchError, match="cat/5"):
        extract(tiny_add(root, data=str(photos)))


def test_images_of_a_committed_shard_are_compared_with_it(photos: Path, tmp_path: Path) -> None:
    root = referring(photos, tmp_path / "c")
    reader = committed(photos, root)
    assert [reader.read(number).sample.key for number in range(6)] == [reader.key(number) for number in range(6)]
    number = [reader.key(number) for number in range(6)].index("dog/2")
    another_image(photos, "dog/2.png")
    with pytest.raises(CacheMismatchError, match=r"key 'dog/2': the image or its views are not those"):
        reader.read(number)
    with pytest.raises(CacheMismatchError, match=r"key 'dog/2': this image is in the base"):
        reader.bad(number, "truncated")
