import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdcache.errors import BadImageError
from kdcache.views import ViewParams, ViewRecipe, draw_view
from kdcache.views.erasing import fits_box
from kdcache.views.randaugment import fits_operation

RRC = ViewRecipe(name="rrc-flip", size=224)
DEIT = ViewRecipe(name="deit", size=224)


def drawn(
    view: int = 0,
    *,
    recipe: ViewRecipe = RRC,
    key: str = "k",
    seed: int = 0,
    width: int = 500,
    height: int = 375,
) -> ViewParams:
    return draw_view(recipe, seed=seed, key=key, view=view, width=width, height=height)


def test_a_view_is_a_pure_function_and_frozen() -> None:
    """The first view of key `k` under seed 0: a cache extracted tomorrow must draw the same."""
    assert drawn() == drawn()
    assert drawn().as_integers() == (110, 0, 364, 372, 224, 224, 0, 0, 1, *[0] * 9)
    assert len({drawn(view) for view in range(8)} | {drawn(key="l"), drawn(seed=1)}) == 10


def test_views_of_deit_are_frozen_too() -> None:
    """The first view of key `k` that has two operations and a box."""
    found = [drawn(view, recipe=DEIT) for view in range(40)]
    assert found == [drawn(view, recipe=DEIT) for view in range(40)]
    first = next(each for each in found if each.operation_1 and each.operation_2 and each.erase_width)
    assert first.as_integers() == (
        110, 0, 364, 372, 224, 224, 0, 0, 1, 5, 560829, 5, 583283, 106, 10, 75, 115, 1754145223,
    )  # fmt: skip


def test_deit_cuts_what_rrc_flip_cuts() -> None:
    """Two caches of one seed differ by the augmentation alone."""
    for view in range(20):
        assert drawn(view, recipe=DEIT).as_integers()[:9] == drawn(view).as_integers()[:9]


@given(st.integers(1, 300), st.integers(0, 50))
def test_what_deit_draws_can_be_replayed(size: int, view: int) -> None:
    recipe = ViewRecipe(name="deit", size=size, magnitude_std=4.0, erase=1.0)
    operations, box = drawn(view, recipe=recipe).as_integers()[9:13], drawn(view, recipe=recipe).as_integers()[13:]
    assert fits_operation(*operations[:2])
    assert fits_operation(*operations[2:])
    assert fits_box(box, size)


def test_a_recipe_names_what_it_draws_from() -> None:
    assert ViewRecipe(name="eval", size=16, crop_pct=0.9).params == {"crop_pct": 0.9, "squash": False}
    assert set(RRC.params) == {"scale", "ratio", "flip"}
    assert set(DEIT.params) == set(RRC.params) | {
        "operation", "magnitude", "magnitude_std", "erase", "erase_area", "erase_ratio",
    }  # fmt: skip


@given(st.integers(1, 2000), st.integers(1, 2000), st.integers(0, 50))
def test_boxes_stay_inside_any_image(width: int, height: int, view: int) -> None:
    box = drawn(view, width=width, height=height)
    assert 0 <= box.left < box.left + box.width <= width
    assert 0 <= box.top < box.top + box.height <= height
    assert (box.resized_width, box.resized_height) == (224, 224)


def test_boxes_have_the_asked_for_areas_and_aspects() -> None:
    views = [drawn(view, width=1000, height=1000) for view in range(400)]
    areas = np.array([view.width * view.height for view in views]) / 1e6
    aspects = np.log([view.width / view.height for view in views])
    assert areas.min() >= 0.079
    assert areas.max() <= 1.0
    assert abs(areas.mean() - 0.5) < 0.06
    assert abs(aspects).max() <= np.log(4 / 3) + 0.01
    assert abs(aspects.mean()) < 0.02
    assert 0.4 < np.mean([view.flip for view in views]) < 0.6


def test_flips_can_be_switched_off() -> None:
    recipe = ViewRecipe(name="rrc-flip", size=16, flip=0.0)
    assert not any(draw_view(recipe, seed=0, key="k", view=v, width=8, height=8).flip for v in range(50))


@pytest.mark.parametrize(("width", "height"), [(60_000, 1), (1, 60_000), (1, 1)])
def test_extreme_shapes_give_a_centred_box(width: int, height: int) -> None:
    box = drawn(width=width, height=height)
    assert box.width * box.height >= 1


def test_the_eval_view_of_an_endless_image_is_refused() -> None:
    recipe = ViewRecipe(name="eval", size=224)
    with pytest.raises(BadImageError, match="60000 x 1 would be resized"):
        draw_view(recipe, seed=0, key="k", view=0, width=60_000, height=1)


IMPOSSIBLE = {
    "name": "mixup",
    "size": 0,
    "crop_pct": 1.1,
    "scale": (0.5, 0.4),
    "ratio": (0, 1),
    "flip": 2,
    "operation": -0.1,
    "magnitude": 10.5,
    "magnitude_std": float("inf"),
    "erase": 1.5,
    "erase_area": (0, 0.5),
    "erase_ratio": (2, 1),
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_impossible_recipes(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}|recipe"):
        ViewRecipe(**{"name": "rrc-flip", "size": 16, name: IMPOSSIBLE[name]})
