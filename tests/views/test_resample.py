import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from kdcache.views import INTERPOLATIONS, resample
from kdcache.views.resample import cut_views, pass_order


@pytest.fixture(params=["extension", "pillow"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways of cutting, whichever this machine would take."""
    if request.param == "extension" and resample._resample is None:
        pytest.skip("the C extension was not built: there was no compiler when kdcache was installed")
    if request.param == "pillow":
        monkeypatch.setattr(resample, "pass_order", lambda interpolation: None)
    return request.param


def by_pillow(image: np.ndarray, view: list[int], size: int, interpolation: str) -> np.ndarray:
    """A view as Pillow's user would write it."""
    left, top, width, height, resized_width, resized_height, window_left, window_top, flip = view
    cut = Image.fromarray(image).crop((left, top, left + width, top + height))
    cut = cut.resize((resized_width, resized_height), INTERPOLATIONS[interpolation])
    cut = cut.crop((window_left, window_top, window_left + size, window_top + size))
    return np.asarray(cut.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip else cut)


@st.composite
def views(draw: st.DrawFn) -> tuple[np.ndarray, list[int], int]:
    """An image, any view of it, and the side of its window."""
    full_width, full_height = draw(st.integers(1, 150)), draw(st.integers(1, 150))
    left, top = draw(st.integers(0, full_width - 1)), draw(st.integers(0, full_height - 1))
    width, height = draw(st.integers(1, full_width - left)), draw(st.integers(1, full_height - top))
    size = draw(st.integers(1, 48))
    resized_width = draw(st.one_of(st.just(max(width, size)), st.integers(size, 120)))
    resized_height = draw(st.one_of(st.just(max(height, size)), st.integers(size, 120)))
    window_left = draw(st.integers(0, resized_width - size))
    window_top = draw(st.integers(0, resized_height - size))
    random = np.random.default_rng(draw(st.integers(0, 1000)))
    # Few values at the ends of the range: sums go beyond 255 and below 0, where rounding and clipping show.
    image = random.choice([0, 1, 127, 254, 255], (full_height, full_width, 3)).astype(np.uint8)
    box = [left, top, width, height, resized_width, resized_height, window_left, window_top, draw(st.integers(0, 1))]
    return image, box, size


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler here")
def test_the_extension_is_built_where_it_can_be_and_taken() -> None:
    assert resample._resample is not None
    assert pass_order("bicubic") is pass_order("bilinear") is not None
    assert pass_order("lanczos") is None


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_every_view_has_pillows_pixels_bit_for_bit(way: str, interpolation: str) -> None:
    @given(views())
    def check(case: tuple[np.ndarray, list[int], int]) -> None:
        image, view, size = case
        out = np.full((1, size, size, 3), 77, np.uint8)
        cut_views([image], np.array([view], np.int32), interpolation, out)
        np.testing.assert_array_equal(out[0], by_pillow(image, view, size, interpolation))

    check()


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("shape", [(600, 800), (2000, 33), (224, 224), (32, 32)], ids=str)
def test_large_images_have_pillows_pixels_bit_for_bit(
    way: str, interpolation: str, shape: tuple[int, int], random: np.random.Generator
) -> None:
    image = random.integers(0, 256, (*shape, 3), dtype=np.uint8)
    boxes = []
    for number in range(12):
        width, height = int(random.integers(1, shape[1] + 1)), int(random.integers(1, shape[0] + 1))
        left, top = int(random.integers(shape[1] - width + 1)), int(random.integers(shape[0] - height + 1))
        boxes.append([left, top, width, height, 224, 224, 0, 0, number % 2])
    out = np.empty((len(boxes), 224, 224, 3), np.uint8)
    cut_views([image] * len(boxes), np.array(boxes, np.int32), interpolation, out)
    for box, pixels in zip(boxes, out, strict=True):
        np.testing.assert_array_equal(pixels, by_pillow(image, box, 224, interpolation))


@pytest.mark.parametrize(
    "view",
    [
        [-1, 0, 5, 5, 4, 4, 0, 0, 0], [0, 0, 11, 5, 4, 4, 0, 0, 0],
        [0, 6, 5, 5, 4, 4, 0, 0, 0], [0, 0, 0, 5, 4, 4, 0, 0, 0],
        [0, 0, 5, 5, 4, 4, 1, 0, 0], [0, 0, 5, 5, 4, 4, 0, -1, 0], [0, 0, 5, 5, 3, 4, 0, 0, 0],
        [2**31 - 1, 0, 2**31 - 1, 5, 4, 4, 0, 0, 0], [0, 0, 5, 5, 2**31 - 1, 4, 2**31 - 1, 0, 0],
    ],
    ids=str,
)  # fmt: skip
def test_a_view_that_does_not_fit_is_refused_before_anything_is_written(way: str, view: list[int]) -> None:
    image = np.zeros((10, 10, 3), np.uint8)
    out = np.full((2, 4, 4, 3), 77, np.uint8)
    views = np.array([[0, 0, 4, 4, 4, 4, 0, 0, 0], view], np.int32)
    with pytest.raises(ValueError, match="does not fit an image of 10 x 10 pixels"):
        cut_views([image, image], views, "bicubic", out)
    assert (out == 77).all()


def test_a_cut_of_a_larger_array_is_an_image_too(way: str, random: np.random.Generator) -> None:
    image = random.integers(0, 256, (20, 20, 3), dtype=np.uint8)[2:18, 3:17]
    view = [1, 1, 9, 9, 6, 6, 0, 0, 0]
    out = np.empty((1, 6, 6, 3), np.uint8)
    cut_views([image], np.array([view], np.int32), "bicubic", out)
    np.testing.assert_array_equal(out[0], by_pillow(image.copy(), view, 6, "bicubic"))


def test_no_views_are_none(way: str) -> None:
    cut_views([], np.empty((0, 9), np.int32), "bicubic", np.empty((0, 4, 4, 3), np.uint8))


@pytest.mark.skipif(resample._resample is None, reason="the C extension was not built")
class TestTheExtensionBelieves:
    """Nothing that a caller could get wrong becomes a read or write outside."""

    view = np.array([[0, 0, 4, 4, 4, 4, 0, 0, 0]], np.int32)

    @pytest.mark.parametrize(
        ("images", "views", "size", "out"),
        [
            ([np.zeros((4, 4), np.uint8)], view, 4, np.empty((1, 4, 4, 3), np.uint8)),
            ([np.zeros((4, 4, 4), np.uint8)], view, 4, np.empty((1, 4, 4, 3), np.uint8)),
            ([np.zeros((4, 4, 3), np.uint16)], view, 4, np.empty((1, 4, 4, 3), np.uint8)),
            ([np.zeros((4, 4, 3), np.uint8)], view[:, :8].copy(), 4, np.empty((1, 4, 4, 3), np.uint8)),
            ([np.zeros((4, 4, 3), np.uint8)], view, 4, np.empty((1, 4, 3, 3), np.uint8)),
            ([np.zeros((4, 4, 3), np.uint8)], view, 0, np.empty((0,), np.uint8)),
            ([np.zeros((4, 4, 3), np.uint8)] * 2, view, 4, np.empty((1, 4, 4, 3), np.uint8)),
        ],
        ids=["flat", "four", "wide", "views", "out", "size", "count"],
    )
    def test_nothing(self, images: list[np.ndarray], views: np.ndarray, size: int, out: np.ndarray) -> None:
        assert resample._resample is not None
        with pytest.raises(ValueError, match=r"must be|need views"):
            resample._resample.cut(images, views, 1, True, size, out)

    def test_nor_a_filter_that_is_not_there(self) -> None:
        assert resample._resample is not None
        for number in (-1, 2):
            with pytest.raises(ValueError, match="need views"):
                resample._resample.cut(
                    [np.zeros((4, 4, 3), np.uint8)], self.view, number, True, 4, np.empty((1, 4, 4, 3), np.uint8)
                )


def test_another_pillow_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Pillow computes otherwise its pixels are the ones that count."""
    monkeypatch.setitem(INTERPOLATIONS, "bicubic", Image.Resampling.LANCZOS)
    pass_order.cache_clear()
    try:
        assert pass_order("bicubic") is None
    finally:
        pass_order.cache_clear()
