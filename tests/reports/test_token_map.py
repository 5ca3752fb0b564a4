from pathlib import Path

import numpy as np
from PIL import Image

from kdcache.reports.token_map import draw_token_map


def test_the_picture(tmp_path: Path, random: np.random.Generator) -> None:
    pixels = random.integers(0, 256, (16, 16, 3), dtype=np.uint8)
    draw_token_map(tmp_path / "r.png", pixels, random.standard_normal((4, 4, 8)), "digit-0001, view 0")
    assert np.asarray(Image.open(tmp_path / "r.png")).shape[1] > 600


def test_it_is_readable_on_light_and_on_dark_pages(tmp_path: Path, random: np.random.Generator) -> None:
    """Behind the words is nothing, and they are as far from white as from black."""
    draw_token_map(tmp_path / "r.png", np.zeros((8, 8, 3), np.uint8), random.standard_normal((4, 4, 8)), "TITLE\nLINE")
    picture = np.asarray(Image.open(tmp_path / "r.png").convert("RGBA"))
    title = picture[: len(picture) // 5]
    assert (picture[0, :, 3] == 0).all()
    words = title[title[..., 3] == 255]
    assert len(words) > 100
    assert (np.abs(words[:, :3].astype(int) - 122) < 10).all()
