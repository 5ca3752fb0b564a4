"""Drawing views: a pure function of (seed, key, view number, image size)."""

import math
from dataclasses import dataclass
from typing import Any

from kdcache.errors import BadImageError
from kdcache.seeds import derived_bits, uniforms
from kdcache.views.erasing import draw_box
from kdcache.views.params import NUM_CUT_FIELDS, ViewParams
from kdcache.views.randaugment import MAX_MAGNITUDE, draw_operations

# What each draws from, besides the size.
RECIPES: dict[str, tuple[str, ...]] = {
    "eval": ("crop_pct", "squash"),
    "rrc-flip": ("scale", "ratio", "flip"),
    "deit": (
        "scale", "ratio", "flip",
        "operation", "magnitude", "magnitude_std",
        "erase", "erase_area", "erase_ratio",
    ),
}  # fmt: skip
# A very long image resized to a fixed short side would be unbounded.
MAX_RESIZED_PIXELS = 64_000_000
_ATTEMPTS = 10


@dataclass(frozen=True, kw_only=True)
class ViewRecipe:
    """How views are drawn.

    Args:
        name: ``eval``: resize the short side to size / crop_pct and take the centre (timm's evaluation transform).
            ``rrc-flip``: a box of random area and aspect resized to size x size, mirrored with probability `flip`.
            ``deit``: such a box, two operations of RandAugment, and a box of it erased by noise: what DeiT trains on
            (timm's ``rand-m9-mstd0.5-inc1`` and random erasing in mode pixel).
        size: S, side of the square the model sees, in pixels.
        crop_pct: Fraction of the resized image that the eval window covers; 0 < crop_pct <= 1.
        squash: For eval, resize both sides to size / crop_pct and ignore the aspect (timm's crop mode ``squash``).
        scale: Range of the box's fraction of the image area.
        ratio: Range of the box's width divided by its height, drawn uniformly in its logarithm.
        flip: Probability of mirroring left and right.
        operation: Probability of an operation, for each of the two slots.
        magnitude, magnitude_std: Of the operations, on a scale of 0 to 10: mean and standard deviation.
        erase: Probability of erasing a box.
        erase_area: Range of the erased box's fraction of the view.
        erase_ratio: Range of its height divided by its width, drawn uniformly in its logarithm.
    """

    name: str
    size: int
    crop_pct: float = 1.0
    squash: bool = False
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    operation: float = 0.5
    magnitude: float = 9.0
    magnitude_std: float = 0.5
    erase: float = 0.25
    erase_area: tuple[float, float] = (0.02, 1 / 3)
    erase_ratio: tuple[float, float] = (0.3, 1 / 0.3)

    def __post_init__(self) -> None:
        if self.name not in RECIPES:
            raise ValueError(f"view recipe must be one of {', '.join(RECIPES)}, got {self.name!r}")
        if self.size < 1:
            raise ValueError(f"view size must be at least 1 pixel, got {self.size}")
        if not 0 < self.crop_pct <= 1:
            raise ValueError(f"crop_pct must be in (0, 1], got {self.crop_pct}")
        self._check_ranges()
        if not 0 <= self.magnitude <= MAX_MAGNITUDE:
            raise ValueError(f"magnitude must be between 0 and {MAX_MAGNITUDE}, got {self.magnitude}")
        if not 0 <= self.magnitude_std < math.inf:
            raise ValueError(f"magnitude_std must be at least 0, got {self.magnitude_std}")

    def _check_ranges(self) -> None:
        for name in ("scale", "erase_area"):
            low, high = getattr(self, name)
            if not 0 < low <= high <= 1:
                raise ValueError(f"{name} must be an increasing pair in (0, 1], got {(low, high)}")
        for name in ("ratio", "erase_ratio"):
            low, high = getattr(self, name)
            if not 0 < low <= high < math.inf:
                raise ValueError(f"{name} must be an increasing pair of positive numbers, got {(low, high)}")
        for name in ("flip", "operation", "erase"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be a probability, got {getattr(self, name)}")

    @property
    def params(self) -> dict[str, Any]:
        """What this recipe draws from, by name; all else of it is without effect."""
        return {name: getattr(self, name) for name in RECIPES[self.name]}


def draw_view(recipe: ViewRecipe, *, seed: int, key: str, view: int, width: int, height: int) -> ViewParams:
    """Draw one view.

    Args:
        recipe: What to draw.
        seed: The cache's seed.
        key: The image's safe key.
        view: Number of the view, from 0.
        width, height: Size of the source image in pixels.

    Raises: BadImageError when the image is so long that its resized copy would be enormous.
    """
    if recipe.name == "eval":
        return _centre(recipe, width, height)
    drawn = uniforms(derived_bits(4 * _ATTEMPTS + 1, "view", seed, view, key))
    cut = _random_resized_crop(recipe, drawn, width, height)
    if recipe.name == "rrc-flip":
        return cut
    operations = draw_operations(
        seed=seed,
        key=key,
        view=view,
        magnitude=recipe.magnitude,
        magnitude_std=recipe.magnitude_std,
        probability=recipe.operation,
    )
    box = draw_box(
        seed=seed,
        key=key,
        view=view,
        size=recipe.size,
        probability=recipe.erase,
        area=recipe.erase_area,
        ratio=recipe.erase_ratio,
    )
    return ViewParams(*cut.as_integers()[:NUM_CUT_FIELDS], *operations, *box)


def _random_resized_crop(recipe: ViewRecipe, drawn: list[float], width: int, height: int) -> ViewParams:
    flip = int(drawn[-1] < recipe.flip)
    low, high = math.log(recipe.ratio[0]), math.log(recipe.ratio[1])
    for attempt in range(_ATTEMPTS):
        area_at, ratio_at, top_at, left_at = drawn[4 * attempt : 4 * attempt + 4]
        area = width * height * (recipe.scale[0] + (recipe.scale[1] - recipe.scale[0]) * area_at)
        ratio = math.exp(low + (high - low) * ratio_at)
        box_width, box_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < box_width <= width and 0 < box_height <= height:
            left = int(left_at * (width - box_width + 1))
            top = int(top_at * (height - box_height + 1))
            return ViewParams(left, top, box_width, box_height, recipe.size, recipe.size, 0, 0, flip)
    # The image is longer than any allowed box: the largest allowed one from its centre, as torchvision does.
    box_width, box_height = width, height
    if width / height < recipe.ratio[0]:
        box_height = min(height, max(1, round(width / recipe.ratio[0])))
    elif width / height > recipe.ratio[1]:
        box_width = min(width, max(1, round(height * recipe.ratio[1])))
    left, top = (width - box_width) // 2, (height - box_height) // 2
    return ViewParams(left, top, box_width, box_height, recipe.size, recipe.size, 0, 0, flip)


def _centre(recipe: ViewRecipe, width: int, height: int) -> ViewParams:
    # floor, as timm computes its resize from size and crop_pct.
    short = math.floor(recipe.size / recipe.crop_pct)
    if recipe.squash:
        resized_width = resized_height = short
    elif width <= height:
        resized_width, resized_height = short, int(short * height / width)
    else:
        resized_width, resized_height = int(short * width / height), short
    if resized_width * resized_height > MAX_RESIZED_PIXELS:
        raise BadImageError(f"{width} x {height} would be resized to {resized_width} x {resized_height}")
    left = round((resized_width - recipe.size) / 2)
    top = round((resized_height - recipe.size) / 2)
    return ViewParams(0, 0, width, height, resized_width, resized_height, left, top, 0)
