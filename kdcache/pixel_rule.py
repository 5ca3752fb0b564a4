"""What becomes of the two things that an image file says besides its colours."""

import re
from dataclasses import dataclass
from typing import Literal, final, get_args

Exif = Literal["ignore", "apply"]
_COLOUR = re.compile(r"(#[0-9a-f]{6})?")


@final
@dataclass(frozen=True)
class PixelRule:
    """How an image file becomes pixels.

    Args:
        exif: ``ignore`` takes the pixels as stored, as timm does; ``apply`` turns them upright by EXIF orientation.
        alpha: ``#rrggbb``, the colour that shows behind transparent pixels; empty drops the alpha channel, as timm
            does, and shows whatever colour lies there.

    Raises: ValueError for others.
    """

    exif: Exif = "ignore"
    alpha: str = ""

    def __post_init__(self) -> None:
        if self.exif not in get_args(Exif):
            raise ValueError(f"exif must be one of {', '.join(get_args(Exif))}, got {self.exif!r}")
        if not _COLOUR.fullmatch(self.alpha):
            raise ValueError(f"alpha must be a colour such as #ffffff, got {self.alpha!r}")


AS_STORED = PixelRule()
