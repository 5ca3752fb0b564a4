import hashlib

import numpy as np

from kdcache.images import decode_image
from kdcache.images.digits import DigitsSource


def test_the_parts_are_disjoint_and_complete() -> None:
    parts = {split: [image.key for image in DigitsSource(split).images] for split in ("all", "train", "test")}
    assert [len(parts[split]) for split in ("all", "train", "test")] == [1797, 1437, 360]
    assert sorted(parts["train"] + parts["test"]) == parts["all"]


def test_their_bytes_are_frozen() -> None:
    """No compressor is involved, so the same digits hash the same everywhere."""
    source = DigitsSource("all")
    digest = hashlib.sha256(b"".join(source.read(position) for position in range(len(source.images)))).hexdigest()
    assert digest == "33c31db28a21293948789763a4a5f9f2e40a0cd50536a5eb0e4879c15b4ef528"
    assert source.num_classes == 10
    assert source.size_bytes(0) == len(source.read(0)) == 75


def test_they_decode_to_what_they_are() -> None:
    pixels = np.asarray(decode_image(DigitsSource("test").read(0)).rgb)
    assert pixels.shape == (8, 8, 3)
    assert pixels.max() <= 255
    assert pixels[0, 2, 0] == round(5 * 255 / 16)
