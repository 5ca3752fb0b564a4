import io
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace
from PIL import Image

from kdcache.cache.writer import BadSample
from kdcache.images import jpeg as jpeg_module
from kdcache.images import open_source
from kdcache.images.source import Source
from kdcache.teacher import reading
from kdcache.teacher.reading import HungImageError, ImageReader, ReadImage, read_shard
from kdcache.teacher.source_plan import SourcePlan
from kdcache.views import ViewRecipe, pixel_hash
from tests.conftest import tiny_extract
from tests.teacher.support import fingerprint_views

RECIPE = ViewRecipe(name="rrc-flip", size=16)


def reader_for(source: Source) -> ImageReader:
    positions = list(range(len(source.images)))
    return ImageReader(SourcePlan(source, positions, [f"key-{p}" for p in positions]), RECIPE, fingerprint_views(2), 6)


def read_all(reader: ImageReader, count: int, quarantined: dict[int, str] | None = None) -> list[ReadImage | BadSample]:
    with ThreadPoolExecutor(2) as pool:
        return list(read_shard(reader, range(count), quarantined or {}, pool, ahead=4, timeout_s=30))


def test_images_come_in_the_order_of_the_plan() -> None:
    found = read_all(reader_for(open_source("digits:test")), 20)
    assert [image.sample.key for image in found if isinstance(image, ReadImage)] == [f"key-{p}" for p in range(20)]


def test_a_sample_says_exactly_what_was_seen(photos: Path) -> None:
    reader = reader_for(open_source(str(photos)))
    image = reader.read(0)
    assert image.pixels.shape == (2, 16, 16, 3)
    assert image.sample.pixel_hashes == tuple(pixel_hash(each) for each in image.pixels)
    assert image.sample.size == (28, 23)
    assert image.extension == "jpg"
    assert image.data == (photos / "cat" / "1.JPEG").read_bytes()


@pytest.mark.parametrize("is_fast", [True, False])
def test_jpeg_views_are_seen_as_the_decoded_jpeg(photos: Path, is_fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the extension and without it, which is optional."""
    if not is_fast:
        monkeypatch.setattr(jpeg_module, "can_decode", lambda: False)
    source = open_source(str(photos))
    views = replace(fingerprint_views(2), jpeg_quality=80)
    plain = reader_for(source).read(0)
    image = ImageReader(SourcePlan(source, [0], ["key-0"]), RECIPE, views, 6).read(0)
    assert len(image.jpegs) == 2
    for pixels, jpeg, found, before in zip(
        image.pixels, image.jpegs, image.sample.pixel_hashes, plain.pixels, strict=True
    ):
        seen = np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB"))
        np.testing.assert_array_equal(pixels, seen)
        assert found == pixel_hash(seen)
        assert (pixels != before).any()
    assert image.sample.views == plain.sample.views


def test_places_in_the_ledger_are_those_in_the_shard(photos: Path) -> None:
    bad = reader_for(open_source(str(photos))).bad(5, "no reason")
    assert (bad.position, bad.key, bad.reason) == (5, "key-5", "no reason")
    positions = list(range(6))
    plan = SourcePlan(open_source(str(photos)), positions, [f"key-{p}" for p in positions])
    assert ImageReader(plan, RECIPE, fingerprint_views(1), 4).bad(5, "").position == 1


def test_bad_images_are_named_and_nobody_takes_their_place(photos: Path) -> None:
    (photos / "cat" / "3.webp").write_bytes(b"")
    (photos / "dog" / "0.jpg").write_bytes(b"<html>404</html>")
    found = read_all(reader_for(open_source(str(photos))), 6)
    bad = {each.source_key: each.reason for each in found if isinstance(each, BadSample)}
    assert bad.keys() == {"cat/3.webp", "dog/0.jpg"}
    assert bad["cat/3.webp"] == "empty file"
    assert [each.position for each in found if isinstance(each, BadSample)] == [1, 3]
    good = [each.sample.source_key for each in found if isinstance(each, ReadImage)]
    assert good == ["cat/1.JPEG", "cat/5.png", "dog/2.png", "dog/4.jpg"]


def test_quarantined_images_are_not_touched(photos: Path) -> None:
    source = open_source(str(photos))
    (photos / "cat" / "1.JPEG").unlink()
    found = read_all(reader_for(source), 6, {0: "quarantined: killed the process"})
    assert isinstance(found[0], BadSample)
    assert found[0].reason == "quarantined: killed the process"


def test_an_image_that_hangs_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()

    @dataclass(frozen=True)
    class Hanging(ImageReader):
        def read(self, number: int) -> ReadImage:
            if number == 2:
                release.wait(30)
            return super().read(number)

    source = open_source("digits:test")
    plan = SourcePlan(source, list(range(5)), [f"key-{p}" for p in range(5)])
    reader = Hanging(plan, RECIPE, fingerprint_views(1), 5)
    with ThreadPoolExecutor(2) as pool:
        images = read_shard(reader, range(5), {}, pool, ahead=4, timeout_s=0.2)
        with pytest.raises(HungImageError, match=r"image 'key-2' took longer than 0.2 s; this counts as one attempt"):
            list(images)
        release.set()
    assert reading.HungImageError is HungImageError
    assert tiny_extract(Path("unused")).image_timeout_s == 120
