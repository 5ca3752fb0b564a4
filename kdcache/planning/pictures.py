"""Pictures to measure with where no images are at hand: JPEG files of the usual size of a photograph."""

from pathlib import Path

import numpy as np
from PIL import Image

# ImageNet's most frequent size, and the mean size of its training files: 147.9 GB of tars over 1,281,167 images.
WIDTH, HEIGHT = 500, 375
IMAGE_BYTES = 115_000
_BLUR_STEP = 25
# Together these give files of about IMAGE_BYTES.
_QUALITY = 90
_GRAIN = 22


def write_pictures(folder: Path, count: int) -> None:
    """Write random pictures with the structure of photographs at a few scales, as files of one folder.

    Args:
        folder: Is there; gets ``0000.jpg`` and so on.
        count: How many.
    """
    random = np.random.default_rng(0)
    for number in range(count):
        coarse = random.integers(0, 256, (HEIGHT // _BLUR_STEP, WIDTH // _BLUR_STEP, 3), np.uint8)
        smooth = np.asarray(Image.fromarray(coarse).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC), np.int16)
        grain = random.integers(-_GRAIN, _GRAIN + 1, (HEIGHT, WIDTH, 1), np.int16)
        pixels = np.clip(smooth + grain, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:04d}.jpg", quality=_QUALITY)
