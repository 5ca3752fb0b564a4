from kdcache.views import VIEW_FIELDS, ViewParams


def test_fields_are_frozen() -> None:
    """Part of the format: caches store views under these names, in this order."""
    assert VIEW_FIELDS == (
        "left", "top", "width", "height", "resized_width", "resized_height", "window_left", "window_top", "flip",
    )  # fmt: skip
    assert ViewParams(1, 2, 3, 4, 5, 6, 7, 8, 1).as_integers() == (1, 2, 3, 4, 5, 6, 7, 8, 1)
