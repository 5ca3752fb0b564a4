import io
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from kdcache.images import decode_image, decode_pixels, decoder_versions, jpeg
from kdcache.images.jpeg import can_decode, decode_jpeg, encode_jpeg, sizes_of
from kdcache.packed import PackedFiles
from tests.images.jpegs import SIZES, by_pillow, encoded, files_of, needs_extension, picture

FIXTURES = Path(__file__).parents[1] / "fixtures" / "jpegs"


def size_of(data: bytes) -> tuple[int, int]:
    height, width = sizes_of(PackedFiles.of([data]))[0].tolist()
    return width, height


@needs_extension
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_pixels_are_pillows_bit_for_bit(size: tuple[int, int]) -> None:
    for data in files_of(*size):
        pixels = decode_jpeg(data)
        assert pixels is not None, "such files are for the extension"
        np.testing.assert_array_equal(pixels, by_pillow(data))
        assert size_of(data) == size


@needs_extension
@pytest.mark.parametrize("subsampling", ["440", "411"])
def test_chroma_that_pillow_does_not_write(subsampling: str) -> None:
    """37 x 45 pixels, written by libjpeg-turbo's other programming interface."""
    data = (FIXTURES / f"{subsampling}.jpg").read_bytes()
    np.testing.assert_array_equal(decode_jpeg(data), by_pillow(data))


@needs_extension
@pytest.mark.parametrize("name", ["imagenet-sample", "cifar10"])
@pytest.mark.slow
def test_pixels_of_real_images_are_pillows_bit_for_bit(shared_data: Callable[[str], Path], name: str) -> None:
    """All 500 photographs; of CIFAR-10 the first 300, as they are and encoded again in other ways."""
    checked = 0
    for path in sorted(shared_data(name).glob("*.tar*")):
        with tarfile.open(path) as tar:
            for member in tar if name == "imagenet-sample" or checked < 300 else ():
                if not member.name.endswith(".jpg") or (name == "cifar10" and checked == 300):
                    continue
                file = tar.extractfile(member)
                assert file is not None
                data = file.read()
                versions = [data]
                if name == "cifar10":
                    image = Image.open(io.BytesIO(data))
                    versions += [
                        encoded(image, quality=quality, subsampling=subsampling, progressive=subsampling == 1)
                        for quality in (60, 95)
                        for subsampling in (0, 1, 2)
                    ]
                for each in versions:
                    np.testing.assert_array_equal(decode_jpeg(each), by_pillow(each), err_msg=member.name)
                checked += 1
    assert checked == {"imagenet-sample": 500, "cifar10": 300}[name]


@needs_extension
def test_every_cut_and_every_damage_that_the_fast_decoder_accepts_has_pillows_pixels() -> None:
    """And nothing is accepted that Pillow refuses: an extraction drops the same images with and without it."""
    random = np.random.default_rng(3)
    for options in ({}, {"progressive": True}, {"subsampling": 0}):
        whole = encoded(picture(45, 37), **options)
        damaged = [whole[:length] for length in range(0, len(whole), 7)]
        for _ in range(400):
            bytes_of = bytearray(whole)
            bytes_of[int(random.integers(2, len(whole)))] = int(random.integers(256))
            damaged.append(bytes(bytes_of))
        accepted = 0
        for data in damaged:
            if (pixels := decode_jpeg(data)) is not None:
                np.testing.assert_array_equal(pixels, by_pillow(data))
                accepted += 1
        assert accepted > 20


def test_other_files_are_left_to_pillow() -> None:
    image = picture(40, 30)
    cmyk = encoded(image.convert("CMYK"))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    for data in (b"", b"\xff\xd8", cmyk, buffer.getvalue()):
        assert decode_jpeg(data) is None
        assert size_of(data) == (0, 0)
    np.testing.assert_array_equal(decode_image(cmyk).pixels, by_pillow(cmyk))
    np.testing.assert_array_equal(decode_pixels(cmyk), by_pillow(cmyk))


@pytest.mark.parametrize("marker", [0xC3, 0xC5, 0xC9, 0xCA, 0xCB, 0xCF, 0xD9, 0xDA, 0x01])
def test_unproven_kinds_of_frame_are_not_agreed(marker: int) -> None:
    data = bytearray(encoded(picture(40, 30)))
    at = data.index(b"\xff\xc0")
    data[at + 1] = marker
    assert size_of(bytes(data)) == (0, 0)


def test_twelve_bits_two_components_and_bombs_are_not_agreed() -> None:
    data = encoded(picture(40, 30))
    at = data.index(b"\xff\xc0")
    assert size_of(data) == (40, 30)
    for offset, value in ((4, b"\x0c"), (9, b"\x02"), (5, b"\xff\xff\xff\xff"), (5, b"\0\0")):
        changed = bytearray(data)
        changed[at + offset : at + offset + len(value)] = value
        assert size_of(bytes(changed)) == (0, 0)
    assert size_of(data[:2] + b"\xff\xff\xff" + data[3:]) == (40, 30), "padding before a marker is allowed"


def test_without_the_extension_the_pixels_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(picture(40, 30))
    with_it = decode_pixels(data)
    monkeypatch.setattr(jpeg, "_jpeg", None)
    can_decode.cache_clear()
    try:
        assert decode_jpeg(data) is None
        assert decoder_versions().keys() == {"pillow"}
        np.testing.assert_array_equal(decode_pixels(data), with_it)
        np.testing.assert_array_equal(decode_image(data).pixels, with_it)
    finally:
        can_decode.cache_clear()


def test_the_package_works_where_it_cannot_be_imported() -> None:
    code = "import sys\nsys.modules['kdcache.images._jpeg'] = None\nfrom kdcache.images import decoder_versions, jpeg\n"
    code += "assert jpeg._jpeg is None and list(decoder_versions()) == ['pillow']"
    subprocess.run([sys.executable, "-c", code], check=True)


@needs_extension
def test_the_versions_name_both_decoders() -> None:
    versions = decoder_versions()
    assert list(versions) == ["pillow", "libjpeg-turbo"]
    assert all(number[0].isdecimal() for number in versions.values())


@needs_extension
@pytest.mark.parametrize("change", ["not libjpeg-turbo", "no library", "other pixels", "nothing decoded"])
def test_a_pillow_with_another_library_is_noticed(change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = jpeg._jpeg
    assert real is not None

    def decode(data: object, places: object, starts: object, out: np.ndarray) -> bytes:
        done = real.decode(data, places, starts, out)
        out += change == "other pixels"
        return bytes(len(done)) if change == "nothing decoded" else done

    if change == "not libjpeg-turbo":
        monkeypatch.setattr(jpeg.features, "check_feature", lambda name: False)
    fake = SimpleNamespace(load=lambda path: change != "no library" and real.load(path), decode=decode)
    monkeypatch.setattr(jpeg, "_jpeg", fake)
    can_decode.cache_clear()
    try:
        assert not can_decode()
        assert decode_jpeg(encoded(picture(9, 9))) is None
    finally:
        can_decode.cache_clear()


@pytest.mark.parametrize("quality", [1, 75, 95, 100])
def test_encoded_pixels_keep_their_brightness_and_are_the_same_every_time(quality: int) -> None:
    pixels = np.asarray(picture(48, 48))
    data = encode_jpeg(pixels, quality)
    assert data == encode_jpeg(np.asfortranarray(pixels), quality)
    at = data.index(b"\xff\xc0")
    assert [data[at + 11 + 3 * component] for component in range(3)] == [0x22, 0x11, 0x11], "4:2:0"
    decoded = decode_pixels(data)
    np.testing.assert_array_equal(decoded, by_pillow(data))
    assert decoded.shape == pixels.shape
    if quality == 100:  # brightness is whole, colour is not
        assert np.abs((decoded.astype(int) - pixels) @ [0.299, 0.587, 0.114]).max() <= 4


def test_impossible_pixels_and_qualities() -> None:
    pixels = np.zeros((4, 4, 3), np.uint8)
    for wrong in (pixels[..., 0], pixels[..., :2], pixels.astype(np.float32), pixels[:0]):
        with pytest.raises(ValueError, match="must be uint8"):
            encode_jpeg(wrong, 90)
    for quality in (0, 101):
        with pytest.raises(ValueError, match="quality must be"):
            encode_jpeg(pixels, quality)
