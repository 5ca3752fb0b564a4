from pathlib import Path

import numpy as np
from PIL import Image

from kdcache.reports.token_map import draw_token_map


def test_the_picture(tmp_path: Path, random: np.random.Generator) -> None:
    pixels = random.integers(0, 256, (16, 16, 3), dtype=np.uint8)
    draw_token_map(tmp_path / "r.png", pixels, random.standard_normal((4, 4, 8)), "digit-0001, view 0")
    assert np.asarray(Image.open(tmp_path / "r.png")).shape[1] > 600
