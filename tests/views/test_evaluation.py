import numpy as np
import pytest
from PIL import Image

from kdcache.views import EvalView, ViewRecipe, draw_view, replay_view

VIEW = EvalView(size=8, crop_pct=0.875, interpolation="bicubic", mean=(0.5,) * 3, std=(0.5,) * 3)


@pytest.mark.parametrize("shape", [(23, 28, 3), (8, 8, 3), (100, 9, 3)], ids=str)
def test_the_view_is_the_recipe_eval(random: np.random.Generator, shape: tuple[int, ...]) -> None:
    image = Image.fromarray(random.integers(0, 256, shape, np.uint8))
    pixels = VIEW.pixels(image)
    recipe = ViewRecipe(name="eval", size=8, crop_pct=0.875)
    drawn = draw_view(recipe, seed=7, key="any", view=3, width=image.width, height=image.height)
    assert pixels.shape == (8, 8, 3)
    np.testing.assert_array_equal(pixels, replay_view(image, drawn, size=8, interpolation="bicubic"))


def test_the_middle_is_seen() -> None:
    """A crop fraction of one half leaves out a quarter on either side."""
    half = EvalView(size=8, crop_pct=0.5, interpolation="bilinear", mean=(0.5,) * 3, std=(0.5,) * 3)
    middle = np.zeros((16, 16, 3), np.uint8)
    middle[4:12, 4:12] = 200
    np.testing.assert_array_equal(half.pixels(Image.fromarray(middle)), np.full((8, 8, 3), 200, np.uint8))
