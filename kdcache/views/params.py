"""One view of one image, as the integers that say everything about it."""

from dataclasses import astuple, dataclass, fields


@dataclass(frozen=True)
class ViewParams:
    """Crop a box from the source, resize it, cut the window out of the result, mirror it if asked.

    All numbers are pixels; the window is always size x size of the recipe.

    Args:
        left, top, width, height: Box in the source image.
        resized_width, resized_height: Size the box is resized to.
        window_left, window_top: Upper left corner of the window in the resized box.
        flip: 1 to mirror left and right, else 0.
    """

    left: int
    top: int
    width: int
    height: int
    resized_width: int
    resized_height: int
    window_left: int
    window_top: int
    flip: int

    def as_integers(self) -> tuple[int, ...]:
        """In the order of VIEW_FIELDS."""
        return astuple(self)


VIEW_FIELDS = tuple(field.name for field in fields(ViewParams))
