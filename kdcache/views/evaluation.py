"""The one view in which a model sees an image when it is evaluated; nothing is drawn at random."""

from dataclasses import dataclass
from typing import final

import numpy as np
from PIL import Image

from kdcache.pixel_rule import Exif, PixelRule
from kdcache.views.draw import ViewRecipe, draw_view
from kdcache.views.replay import replay_view


@final
@dataclass(frozen=True, kw_only=True)
class EvalView:
    """How a model sees an image when it is evaluated.

    Args:
        size: S.
        crop_pct: Fraction of the resized image that is seen.
        interpolation: Name of the resize filter.
        mean, std: Of the normalisation.
        exif, alpha: How files become pixels; see PixelRule.
    """

    size: int
    crop_pct: float
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    exif: Exif = "ignore"
    alpha: str = ""

    @property
    def pixel_rule(self) -> PixelRule:
        """How files become pixels."""
        return PixelRule(self.exif, self.alpha)

    def pixels(self, image: Image.Image) -> np.ndarray:
        """(S, S, 3) uint8 of an RGB image.

        Raises: BadImageError for images too small to be cut.
        """
        recipe = ViewRecipe(name="eval", size=self.size, crop_pct=self.crop_pct)
        drawn = draw_view(recipe, seed=0, key="", view=0, width=image.width, height=image.height)
        return replay_view(image, drawn, size=self.size, interpolation=self.interpolation)
