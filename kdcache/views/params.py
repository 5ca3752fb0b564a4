"""One view of one image, as the integers that say everything about it."""

from dataclasses import dataclass, fields
from operator import attrgetter


@dataclass(frozen=True)
class ViewParams:
    """Crop a box from the source, resize it, cut the window out of the result, mirror, augment, erase a box.

    The window is always size x size of the recipe. Integers of what a recipe does not do are 0.

    Args:
        left, top, width, height: Box in the source image, pixels.
        resized_width, resized_height: Size the box is resized to, pixels.
        window_left, window_top: Upper left corner of the window in the resized box, pixels.
        flip: 1 to mirror left and right, else 0.
        operation_1, operation_2: A number of Operation each, applied one after the other; 0 for none.
        magnitude_1, magnitude_2: Their magnitudes of 0 to 10, in units of 1 / MAGNITUDE_ONE; below 0 where the
            operation is turned the other way, 0 for operations that have none.
        erase_left, erase_top, erase_width, erase_height: Box of the window that noise replaces, pixels; width and
            height 0 for none.
        erase_seed: Of that noise.
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
    operation_1: int = 0
    magnitude_1: int = 0
    operation_2: int = 0
    magnitude_2: int = 0
    erase_left: int = 0
    erase_top: int = 0
    erase_width: int = 0
    erase_height: int = 0
    erase_seed: int = 0

    def as_integers(self) -> tuple[int, ...]:
        """In the order of VIEW_FIELDS."""
        return _integers(self)


VIEW_FIELDS = tuple(field.name for field in fields(ViewParams))
_integers = attrgetter(*VIEW_FIELDS)  # dataclasses.astuple copies deeply: it was a third of the time of a draw
# The first ones, up to `flip`, say how a view is cut; the others what is done to it then.
NUM_CUT_FIELDS = VIEW_FIELDS.index("flip") + 1
