"""Many files in one call of the extension, and what it refuses."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from kdcache.images import jpeg
from kdcache.images.jpeg import decode_jpeg, decode_jpegs, decode_jpegs_into
from kdcache.packed import PackedFiles
from tests.images.jpegs import SIZES, by_pillow, encoded, files_of, needs_extension, picture


@needs_extension
def test_many_files_in_one_call_are_each_as_alone() -> None:
    """Of all sizes, and with others among them that are left to Pillow."""
    others = [b"", b"\xff\xd8", encoded(picture(9, 9).convert("CMYK")), encoded(picture(20, 20))[:-40], b"no image"]
    files = [data for size in SIZES for data in files_of(*size)]
    for position, other in enumerate(others):
        files.insert(31 * position, other)
    together = decode_jpegs(PackedFiles.of(files))
    assert len(together) == len(files)
    for data, pixels in zip(files, together, strict=True):
        if data in others:
            assert pixels is None
        else:
            np.testing.assert_array_equal(pixels, by_pillow(data))
    assert decode_jpegs(PackedFiles.of([])) == []


def without(data: bytes, marker: int) -> bytes:
    """A JPEG without its segments of one kind."""
    at, kept = 2, data[:2]
    while data[at + 1] != 0xDA:
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        kept += b"" if data[at + 1] == marker else data[at:end]
        at = end
    return kept + data[at:]


@needs_extension
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("marker", [0xDB, 0xC4])
def test_a_file_never_takes_the_tables_of_the_one_before(marker: int, progressive: bool) -> None:
    """Quantisation and Huffman codes stay in a decompressor; a file that lacks its own is as it is alone."""
    image = picture(40, 30)
    whole = encoded(image, quality=30, optimize=True)
    lacking = without(encoded(image, quality=95, progressive=progressive), marker)
    assert len(lacking) < len(encoded(image, quality=95, progressive=progressive))
    alone = decode_jpeg(lacking)
    before, behind, after = decode_jpegs(PackedFiles.of([whole, lacking, whole]))
    np.testing.assert_array_equal(before, by_pillow(whole))
    np.testing.assert_array_equal(after, by_pillow(whole))
    assert (behind is None) == (alone is None)
    if alone is not None:  # codes of the standard
        np.testing.assert_array_equal(behind, by_pillow(lacking))


@needs_extension
def test_rows_are_filled_where_files_have_their_size() -> None:
    files = [encoded(picture(16, 12)), encoded(picture(12, 16)), b"", encoded(picture(16, 12), quality=40)]
    rows = np.full((4, 12, 16, 3), 7, np.uint8)
    assert decode_jpegs_into(PackedFiles.of(files), rows).tolist() == [True, False, False, True]
    np.testing.assert_array_equal(rows[0], by_pillow(files[0]))
    np.testing.assert_array_equal(rows[3], by_pillow(files[3]))
    assert (rows[1:3] == 7).all()
    assert decode_jpegs_into(PackedFiles.of([]), rows[:0]).tolist() == []


@needs_extension
def test_threads_decode_side_by_side() -> None:
    files = PackedFiles.of([data for size in SIZES[3:] for data in files_of(*size)])
    alone = decode_jpegs(files)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: decode_jpegs(files), range(12)):
            for ours, one in zip(found, alone, strict=True):
                np.testing.assert_array_equal(ours, one)


@needs_extension
def test_the_extension_refuses_what_does_not_fit() -> None:
    assert jpeg._jpeg is not None
    data, out = np.zeros(10, np.uint8), np.zeros(30, np.uint8)
    for places in ([[0, 11]], [[-1, 3]], [[11, 0]], [[0, -1]], [[5, 2**62]]):
        with pytest.raises(ValueError, match="within the 10 bytes"):
            jpeg._jpeg.decode(data, np.array(places), np.zeros(1, np.int64), out)
    with pytest.raises(ValueError, match="as many starts"):
        jpeg._jpeg.decode(data, np.array([[0, 10]]), np.zeros(2, np.int64), out)
    with pytest.raises(ValueError, match=r"need \(1, 2\) int64"):
        jpeg._jpeg.sizes_of(data, np.array([[0, 10]]), out)
    file = PackedFiles.of([encoded(picture(16, 12))])
    for start in (-1, 1, 600):
        room = np.zeros(16 * 12 * 3, np.uint8)
        assert jpeg._jpeg.decode(file.data, file.places, np.array([start]), room) == b"\0"
        assert not room.any()


@needs_extension
def test_a_module_without_the_library_is_not_taken() -> None:
    assert jpeg._jpeg is not None
    assert jpeg._jpeg.load(jpeg._imaging.__file__)
    assert not jpeg._jpeg.load(str(Path(__file__).parent / "nowhere.so"))
    assert not jpeg._jpeg.load(jpeg._jpeg.__file__)
    with pytest.raises(RuntimeError, match="no libjpeg is loaded"):
        jpeg._jpeg.decode(b"", np.zeros((0, 2), np.int64), np.zeros(0, np.int64), bytearray())
    assert jpeg._jpeg.load(jpeg._imaging.__file__)
