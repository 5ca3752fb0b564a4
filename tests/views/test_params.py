from kdcache.views import VIEW_FIELDS, ViewParams
from kdcache.views.params import NUM_CUT_FIELDS


def test_fields_are_frozen() -> None:
    """Part of the format: caches store views under these names, in this order."""
    assert VIEW_FIELDS == (
        "left", "top", "width", "height", "resized_width", "resized_height", "window_left", "window_top", "flip",
        "operation_1", "magnitude_1", "operation_2", "magnitude_2",
        "erase_left", "erase_top", "erase_width", "erase_height", "erase_seed",
    )  # fmt: skip
    assert NUM_CUT_FIELDS == 9
    assert ViewParams(*range(1, 19)).as_integers() == tuple(range(1, 19))


def test_what_is_not_done_is_0() -> None:
    assert ViewParams(1, 2, 3, 4, 5, 6, 7, 8, 1).as_integers() == (1, 2, 3, 4, 5, 6, 7, 8, 1, *[0] * 9)
