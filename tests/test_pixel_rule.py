"""How image files become pixels, from the rule to the student's batches."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kdcache.cache import Cache, open_cache
from kdcache.cache.sample import Sample
from kdcache.cache.verify import verify_base_shard
from kdcache.pixel_rule import AS_STORED, PixelRule
from kdcache.stream.config import StreamConfig
from kdcache.stream.loader import CacheLoader
from kdcache.teacher.extract import extract
from kdcache.train.setup import prepare
from tests.conftest import tiny_extract
from tests.train.support import tiny_run


def test_the_usual_rule_is_timms() -> None:
    assert PixelRule() == AS_STORED == PixelRule("ignore", "")


@pytest.mark.parametrize(
    ("exif", "alpha"), [("turn", ""), ("apply", "white"), ("apply", "#FFFFFF"), ("ignore", "#fff")]
)
def test_others_are_refused(exif: str, alpha: str) -> None:
    with pytest.raises(ValueError, match=r"exif must be one of|alpha must be a colour"):
        PixelRule(exif, alpha)


def photos(root: Path) -> Path:
    """Photographs taken with a camera on its side, and drawings on nothing, in two classes."""
    noise = np.random.default_rng(0)
    for number in range(4):
        (root / "photo").mkdir(parents=True, exist_ok=True)
        (root / "drawing").mkdir(exist_ok=True)
        exif = Image.Exif()
        exif[0x0112] = 6
        photo = Image.fromarray(noise.integers(0, 256, (24, 40, 3), dtype=np.uint8))
        photo.save(root / "photo" / f"{number}.jpg", quality=95, exif=exif)
        drawing = np.zeros((32, 32, 4), np.uint8)
        drawing[8:24, 8:24] = (200, 30, 30 + number, 255)
        Image.fromarray(drawing).save(root / "drawing" / f"{number}.png")
    return root


def test_teacher_student_and_evaluation_follow_one_rule(tmp_path: Path) -> None:
    """The teacher's views, replayed ones, stored ones and the student's evaluation view, of both kinds of images."""
    data = photos(tmp_path / "data")
    config = tiny_extract(
        tmp_path / "cache", data=str(data), limit=None, exif="apply", alpha_color="white", view_recipe="eval", views=1
    )
    extract(config)
    extract(replace(config, out=tmp_path / "plain", exif="ignore", alpha_color=None))
    extract(replace(config, out=tmp_path / "raw", pixels="raw"))
    seen: dict[str, np.ndarray] = {}
    for name in ("cache", "plain", "raw"):
        cache = open_cache(tmp_path / name)
        stream = StreamConfig(batch_size=8, num_threads=1, images="pixels", check_pixels=1.0, shuffle=False)
        [batch] = CacheLoader(cache, cache.columns, stream)
        assert batch.pixels is not None
        seen[name] = batch.pixels.clone().numpy()
    cache = open_cache(tmp_path / "cache")
    assert not [fault for shard in cache.manifest.shards for fault in verify_base_shard(cache, shard)]
    assert cache.manifest.fingerprint.views.pixel_rule == PixelRule("apply", "#ffffff")
    np.testing.assert_array_equal(seen["cache"], seen["raw"])
    corners, plain_corners = seen["cache"][:, 0, 0], seen["plain"][:, 0, 0]
    labels = np.array([image.label for image in cache_samples(cache)])
    drawing = labels == cache.manifest.fingerprint.source.class_names.index("drawing")
    assert (corners[drawing] == 255).all() and (plain_corners[drawing] == 0).all()
    sizes = {image.size for image, is_drawing in zip(cache_samples(cache), drawing, strict=True) if not is_drawing}
    assert sizes == {(24, 40)}
    assert (seen["cache"] != seen["plain"]).reshape(8, -1).any(1).all()
    view = prepare(tiny_run(same_classes=True), cache).view
    assert (view.exif, view.alpha) == ("apply", "#ffffff")


def cache_samples(cache: Cache) -> list[Sample]:
    return [cache.index(shard).sample(row) for shard in cache.manifest.shards for row in range(shard.num_samples)]
