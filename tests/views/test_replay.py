import numpy as np
import pytest
import timm.data
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as TF

from kdcache.views import INTERPOLATIONS, ViewParams, ViewRecipe, draw_view, pixel_hash, replay_view


def image(width: int, height: int) -> Image.Image:
    random = np.random.default_rng(width * height)
    return Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("size", [(500, 375), (375, 500), (224, 224), (100, 301), (31, 30)], ids=str)
@pytest.mark.parametrize(("crop_pct", "mode"), [(1.0, "center"), (0.875, "center"), (0.9, "squash")])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_eval_is_timms_own_transform_bit_for_bit(
    size: tuple[int, int], crop_pct: float, mode: str, interpolation: str
) -> None:
    source = image(*size)
    theirs = timm.data.create_transform(
        input_size=(3, 224, 224), crop_pct=crop_pct, crop_mode=mode, interpolation=interpolation, normalize=False
    )(source)
    recipe = ViewRecipe(name="eval", size=224, crop_pct=crop_pct, squash=mode == "squash")
    view = draw_view(recipe, seed=0, key="k", view=0, width=source.width, height=source.height)
    ours = replay_view(source, view, size=224, interpolation=interpolation)
    assert isinstance(theirs, torch.Tensor)
    np.testing.assert_array_equal(ours.transpose(2, 0, 1), theirs.numpy())


@pytest.mark.parametrize("number", range(6))
def test_rrc_is_torchvisions_resized_crop_bit_for_bit(number: int) -> None:
    source = image(331, 217)
    recipe = ViewRecipe(name="rrc-flip", size=64)
    view = draw_view(recipe, seed=1, key="k", view=number, width=331, height=217)
    theirs = TF.resized_crop(source, view.top, view.left, view.height, view.width, [64, 64], InterpolationMode.BICUBIC)
    theirs = TF.hflip(theirs) if view.flip else theirs
    ours = replay_view(source, view, size=64, interpolation="bicubic")
    np.testing.assert_array_equal(ours, np.asarray(theirs))
    assert ours.flags.c_contiguous


def test_a_view_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="does not fit an image of 10 x 10"):
        replay_view(image(10, 10), ViewParams(5, 0, 6, 10, 4, 4, 0, 0, 0), size=4, interpolation="bicubic")


def test_the_hash_is_that_of_the_pixels_in_row_order() -> None:
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    assert pixel_hash(pixels) == pixel_hash(np.asfortranarray(pixels)) == "4dbdc2b2b62cb00749785bc84202236d"
    assert pixel_hash(pixels[:, ::-1]) != pixel_hash(pixels)


def test_every_filter_name_is_pillows() -> None:
    for name in INTERPOLATIONS:
        view = ViewParams(0, 0, 10, 10, 5, 5, 0, 0, 0)
        assert replay_view(image(10, 10), view, size=5, interpolation=name).shape == (5, 5, 3)
