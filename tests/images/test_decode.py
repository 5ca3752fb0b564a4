import io
import re
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile, ImageOps, features

from kdcache.errors import BadImageError
from kdcache.images.decode import MAX_PIXELS, decode_image, decode_pixels, image_extension
from kdcache.pixel_rule import PixelRule


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def gradient(mode: str = "RGB") -> Image.Image:
    ramp = np.linspace(0, 255, 40, dtype=np.uint8)
    grey = Image.fromarray(np.broadcast_to(ramp, (30, 40)).copy())
    return grey if mode == "L" else grey.convert(mode)


@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        ("PNG", "RGB"), ("PNG", "L"), ("PNG", "RGBA"), ("PNG", "LA"), ("PNG", "P"), ("PNG", "1"), ("JPEG", "RGB"),
        ("JPEG", "L"), ("JPEG", "CMYK"), ("WEBP", "RGB"), ("BMP", "RGB"), ("GIF", "P"), ("TIFF", "RGB"), ("PPM", "L"),
    ],
)  # fmt: skip
def test_every_mode_becomes_rgb(kind: str, mode: str) -> None:
    decoded = decode_image(encoded(gradient(mode), kind))
    assert decoded.pixels.dtype == np.uint8
    assert decoded.pixels.shape == (30, 40, 3)
    assert decoded.mode == mode


def test_sixteen_bits_are_scaled_and_never_clipped() -> None:
    """Pillow's own conversion gives a mean of 255 here."""
    wide = np.broadcast_to(np.linspace(0, 65535, 40).astype(np.uint16), (30, 40)).copy()
    for kind in ("PNG", "TIFF"):
        pixels = decode_image(encoded(Image.fromarray(wide), kind)).pixels
        assert abs(pixels.mean() - 127.5) < 1
        np.testing.assert_array_equal(pixels[..., 0], wide // 257)


def test_rotation_is_noted_and_not_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    decoded = decode_image(encoded(gradient(), "JPEG", exif=exif))
    assert decoded.orientation == 6
    assert decoded.pixels.shape == (30, 40, 3)
    assert decode_image(encoded(gradient(), "JPEG")).orientation == 1


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 10))
def test_rotation_is_applied_where_asked(kind: str, orientation: int) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(noise, kind, exif=exif)
    with Image.open(io.BytesIO(data)) as image:
        upright = np.asarray(ImageOps.exif_transpose(image.convert("RGB")))
    rule = PixelRule("apply")
    np.testing.assert_array_equal(decode_image(data, rule).pixels, upright)
    assert decode_image(data, rule).pixels.flags.c_contiguous
    np.testing.assert_array_equal(decode_pixels(data, rule), upright)
    np.testing.assert_array_equal(decode_pixels(data), decode_image(data).pixels)


@pytest.mark.parametrize(
    ("kind", "mode"), [("PNG", "RGBA"), ("PNG", "LA"), ("PNG", "P"), ("WEBP", "RGBA"), ("GIF", "P")]
)
def test_a_colour_shows_behind_what_is_transparent(kind: str, mode: str) -> None:
    picture = np.zeros((30, 40, 4), np.uint8)
    picture[:, :20] = (100, 100, 100, 255)
    image = Image.fromarray(picture)
    options: dict[str, Any] = {"lossless": True} if kind == "WEBP" else {}
    if mode == "P":
        image = Image.fromarray((picture[..., 0] > 0).astype(np.uint8)).convert("P")
        image.putpalette([7, 7, 7, 100, 100, 100])
        options = {"transparency": 0}
    data = encoded(image.convert(mode) if mode == "LA" else image, kind, **options)
    pixels = decode_image(data, PixelRule(alpha="#0a141e")).pixels
    assert (pixels[:, :20] == 100).all()
    assert (pixels[:, 20:] == (10, 20, 30)).all()
    opaque = encoded(gradient(), "PNG")
    np.testing.assert_array_equal(decode_image(opaque, PixelRule(alpha="#0a141e")).pixels, decode_image(opaque).pixels)


def test_alpha_is_dropped_and_the_first_frame_taken() -> None:
    image = gradient("RGBA")
    image.putalpha(0)
    np.testing.assert_array_equal(decode_image(encoded(image, "PNG")).pixels, np.asarray(gradient()))
    frames = encoded(gradient("P"), "GIF", save_all=True, append_images=[Image.new("P", (40, 30), 9)])
    assert decode_image(frames).pixels.shape == (30, 40, 3)


JPEG = encoded(gradient(), "JPEG")
NOISE = encoded(Image.effect_noise((200, 200), 80).convert("RGB"), "JPEG")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (NOISE[: int(len(NOISE) * 0.6)], "damaged or truncated JPEG file of [0-9]+ bytes"),
        (JPEG[:10], "not an image of a known format"),
        (b"<html>404</html>", "known format; begins with b'<html>404</h'"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n", "known format; begins with b'%!PS-Adobe-3'"),
        (b"\x1b[2J\n", r"begins with b'\\x1b\[2J\\n'"),
        (encoded(Image.fromarray(np.zeros((3, 3), np.float32)), "TIFF"), "mode F"),
        (encoded(Image.fromarray(np.zeros((3, 3), np.int32)), "TIFF"), "mode I"),
    ],
    ids=["empty", "cut", "stub", "html", "eps", "escape", "float", "int32"],
)
def test_what_cannot_be_used_says_why(data: bytes, reason: str) -> None:
    with pytest.raises(BadImageError, match=reason):
        decode_image(data)


@pytest.mark.parametrize("step", ["open", "load"])
def test_no_words_of_pillow_are_in_a_reason(monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """They hold addresses and change between versions; the ledger is hashed, and the same plan gives the same bytes."""

    def fails(*_: object, **__: object) -> None:
        raise OSError(f"in pillow 12.1, at /usr/lib, {object()}")

    owner = Image if step == "open" else ImageFile.ImageFile
    monkeypatch.setattr(owner, step, fails)
    with pytest.raises(BadImageError) as caught:
        decode_image(encoded(gradient(), "PNG"))
    assert not re.search(r"0x|pillow|/usr", str(caught.value))


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_decompression_bomb_is_refused_from_its_header(monkeypatch: pytest.MonkeyPatch) -> None:
    side = int(MAX_PIXELS**0.5) + 1
    bomb = encoded(Image.new("1", (side, side)), "PNG")
    assert len(bomb) < 50_000
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("it was decoded"))
    with pytest.raises(BadImageError, match=f"{side} x {side} pixels, more than"):
        decode_image(bomb)


def test_an_enormous_bomb_is_refused_by_pillow_itself() -> None:
    with pytest.raises(BadImageError, match="more than"):
        decode_image(encoded(Image.new("1", (20_000, 20_000)), "PNG"))


def test_filling_truncated_images_with_grey_is_a_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(ValueError, match="grey in silence"):
        decode_image(JPEG)


def test_a_lying_extension_does_not_matter() -> None:
    assert decode_image(encoded(gradient(), "WEBP")).pixels.shape == (30, 40, 3)


@pytest.mark.parametrize(
    ("name", "extension"),
    [("a.jpg", "jpg"), ("a.JPEG", "jpg"), ("a.b.PNG", "png"), ("a.tiff", "tif"), ("a.txt", None), ("jpg", None)],
)
def test_one_spelling_of_each_extension(name: str, extension: str | None) -> None:
    assert image_extension(name if "." in name else f"{name}.") == extension


def test_avif_is_read_where_pillow_reads_it() -> None:
    """And where it does not, files of that name are counted as other formats."""
    if "avif" not in features.get_supported_modules():
        assert image_extension("x.avif") is None
        return
    assert image_extension("x.AVIF") == "avif"
    found = decode_image(encoded(gradient(), "AVIF")).pixels.astype(int)
    assert abs(found - np.asarray(gradient()).astype(int)).mean() < 5
