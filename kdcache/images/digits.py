"""scikit-learn's 1,797 real handwritten digits of 8 x 8 pixels: images for a first run without any download."""

from typing import Any

import numpy as np

from kdcache.images.source import Source, SourceImage

# Every fifth digit is held out, so that the two parts have the same writers and classes.
_HELD_OUT_EVERY = 5
SPLITS = ("all", "train", "test")


class DigitsSource(Source):
    """The digits as PGM files, a format whose bytes no compressor can change.

    Args:
        split: ``train`` (1,437), ``test`` (360) or ``all``.
    """

    kind = "digits"
    label_source = "the data set"

    def __init__(self, split: str) -> None:
        # Only users of the digits should pay for the import.
        from sklearn.datasets import load_digits

        digits: Any = load_digits()
        numbers = np.arange(len(digits.target))
        held_out = numbers % _HELD_OUT_EVERY == 0
        chosen = {"all": numbers, "train": numbers[~held_out], "test": numbers[held_out]}[split]
        self.class_names = [str(name) for name in digits.target_names]
        self._pixels = np.rint(digits.images[chosen] * (255 / 16)).astype(np.uint8)
        self.images = [
            SourceImage(f"digit-{number:04d}", f"digit-{number:04d}", "pgm", int(digits.target[number]))
            for number in chosen
        ]

    def read(self, position: int) -> bytes:
        return b"P5\n8 8\n255\n" + self._pixels[position].tobytes()

    def size_bytes(self, position: int) -> int:
        return len(self.read(position))
