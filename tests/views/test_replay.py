import numpy as np
import pytest
import timm.data
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as TF

from kdcache.views import INTERPOLATIONS, ViewParams, ViewRecipe, draw_view, pixel_hash, replay_view, replay_views
from kdcache.views.erasing import erase
from kdcache.views.randaugment import Surroundings, apply_operations


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


MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
AUGMENTED = ViewParams(5, 3, 90, 80, 32, 32, 0, 0, 1, 4, -500_000, 14, 600_000, 20, 4, 9, 6, 77)


def test_an_augmented_view_is_cut_then_augmented_then_erased() -> None:
    cut = replay_view(image(120, 90), ViewParams(*AUGMENTED.as_integers()[:9]), size=32, interpolation="bicubic")
    fill = Surroundings((124, 116, 104), INTERPOLATIONS["bicubic"])
    expected = apply_operations(cut, [4, -500_000, 14, 600_000], fill).copy()
    erase(expected, [20, 4, 9, 6, 77], mean=MEAN, std=STD)
    ours = replay_view(image(120, 90), AUGMENTED, size=32, interpolation="bicubic", mean=MEAN, std=STD)
    np.testing.assert_array_equal(ours, expected)
    assert not np.array_equal(ours, cut)


def test_views_with_and_without_augmentation_share_a_call() -> None:
    """A row of zeros is cut and nothing else, whatever stands beside it."""
    plain = ViewParams(*AUGMENTED.as_integers()[:9])
    images = [np.asarray(image(120, 90))] * 3
    three = replay_views(images, [plain, AUGMENTED, plain], size=32, interpolation="bicubic", mean=MEAN, std=STD)
    alone = replay_view(images[0], plain, size=32, interpolation="bicubic")
    np.testing.assert_array_equal(three[0], alone)
    np.testing.assert_array_equal(three[2], alone)
    assert not np.array_equal(three[1], alone)


def test_an_augmented_view_needs_the_normalisation() -> None:
    with pytest.raises(ValueError, match="mean and std of 3 channels are needed"):
        replay_view(image(120, 90), AUGMENTED, size=32, interpolation="bicubic")


def test_the_hash_is_that_of_the_pixels_in_row_order() -> None:
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    assert pixel_hash(pixels) == pixel_hash(np.asfortranarray(pixels)) == "4dbdc2b2b62cb00749785bc84202236d"
    assert pixel_hash(pixels[:, ::-1]) != pixel_hash(pixels)


def test_every_filter_name_is_pillows() -> None:
    for name in INTERPOLATIONS:
        view = ViewParams(0, 0, 10, 10, 5, 5, 0, 0, 0)
        assert replay_view(image(10, 10), view, size=5, interpolation=name).shape == (5, 5, 3)
