from dataclasses import replace
from pathlib import Path

import pytest

from kdcache.cache import open_cache
from kdcache.planning.pixel_forms import PixelForm, measure_pixel_forms, read_seconds, smallest_that_keeps_up
from kdcache.teacher.extract import extract
from tests.conftest import tiny_extract


@pytest.mark.parametrize("pixels", ["replay", "jpeg:50"])
def test_the_same_views_in_three_forms(tmp_path: Path, pixels: str) -> None:
    config = tiny_extract(tmp_path / "c", pixels=pixels)
    extract(config)
    cache = open_cache(tmp_path / "c")
    (tmp_path / "forms").mkdir()
    forms = measure_pixel_forms(config, tmp_path / "forms", cache=cache, replay_s=0.5, seconds=0.05)
    assert [form.name for form in forms] == ["replay", "jpeg:50" if pixels == "jpeg:50" else "jpeg", "raw"]
    assert forms[0] == PixelForm("replay", 0.0, 0.5)
    size = cache.manifest.fingerprint.views.size
    assert 3 * size**2 < forms[2].bytes_per_view < 3 * size**2 + 2048
    assert forms[1].bytes_per_view > 0
    assert all(form.read_s > 0 for form in forms)
    for name in (forms[1].name, "raw"):
        stored = open_cache(tmp_path / "forms" / name)
        views, planned = (each.manifest.fingerprint.views for each in (stored, cache))
        quality = stored.manifest.fingerprint.views.jpeg_quality
        assert replace_quality(planned, quality) == replace_quality(views, quality), "the views that are planned"


def replace_quality(views: object, quality: int) -> dict[str, object]:
    import msgspec

    facts = {**msgspec.to_builtins(views), "jpeg_quality": quality}
    return {name: each for name, each in facts.items() if name not in ("mean", "std")}


def test_the_smallest_that_is_read_in_a_step() -> None:
    forms = [PixelForm("replay", 0, 5e-3), PixelForm("jpeg", 10, 1e-3), PixelForm("raw", 100, 1e-4)]
    assert [smallest_that_keeps_up(forms, step_s).name for step_s in (6e-3, 2e-3, 1e-3, 5e-4, 1e-5)] == [
        "replay", "jpeg", "jpeg", "raw", "raw",
    ]  # fmt: skip
    slow = [forms[0], replace(forms[2], read_s=6e-3)]
    assert smallest_that_keeps_up(slow, 1e-3).name == "replay", "the fastest where none keeps up"


def test_reading_is_timed(tmp_path: Path) -> None:
    extract(tiny_extract(tmp_path / "c", limit=8))
    assert 0 < read_seconds(open_cache(tmp_path / "c"), [], "replay", None, 0.02) < 1
