import hashlib
from typing import Any

import numpy as np
import pytest
from scipy import stats

from kdcache.seeds import derived_bits
from kdcache.views.erasing import draw_box, erase, fits_box, noise_tables

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
DRAW: dict[str, Any] = {"seed": 0, "key": "k", "size": 224, "area": (0.02, 1 / 3), "ratio": (0.3, 1 / 0.3)}


def noise(seed: int, size: int = 224) -> np.ndarray:
    """A view that is nothing but noise, (size, size, 3) float, normalised as a student sees it."""
    pixels = np.zeros((size, size, 3), np.uint8)
    erase(pixels, (0, 0, size, size, seed), mean=MEAN, std=STD)
    return (pixels / 255 - MEAN) / STD


def test_noise_is_normal_once_it_is_normalised() -> None:
    """Each value of each channel as often as the normal distribution gives its interval, the ends taking the tails."""
    values = np.concatenate([noise(seed).reshape(-1, 3) for seed in range(8)])
    for channel, (mean, std) in enumerate(zip(MEAN, STD, strict=True)):
        pixels = np.rint((values[:, channel] * std + mean) * 255).astype(int)
        bounds = stats.norm.cdf(((np.arange(255) + 0.5) / 255 - mean) / std)
        expected = np.diff([0.0, *bounds, 1.0]) * len(pixels)
        assert stats.chisquare(np.bincount(pixels, minlength=256), expected).pvalue > 1e-3
        # What the clipping costs: the moments of the clipped distribution, which the docstring states.
        grid = np.clip(np.linspace(-8, 8, 200_001), -mean / std, (1 - mean) / std)
        weights = stats.norm.pdf(np.linspace(-8, 8, 200_001))
        expected_mean = np.average(grid, weights=weights)
        expected_std = np.sqrt(np.average((grid - expected_mean) ** 2, weights=weights))
        assert values[:, channel].mean() == pytest.approx(expected_mean, abs=0.01)
        assert values[:, channel].std() == pytest.approx(expected_std, abs=0.01)
        assert 0.95 < expected_std < 0.98


def test_pixels_and_channels_are_independent() -> None:
    values = noise(3)
    neighbours = [
        (values[:, 1:], values[:, :-1]), (values[1:], values[:-1]), (values[..., 0], values[..., 1]),
        (values[..., 1], values[..., 2]),
    ]  # fmt: skip
    for first, second in neighbours:
        assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.02
    assert abs(np.corrcoef(noise(3).ravel(), noise(4).ravel())[0, 1]) < 0.02


def test_noise_is_frozen() -> None:
    """Part of the format: the same pixels tomorrow, on any machine, under any numpy."""
    pixels = np.zeros((5, 4, 3), np.uint8)
    erase(pixels, (1, 2, 3, 2, 12345), mean=MEAN, std=STD)
    assert pixels[2:4, 1:].reshape(-1).tolist() == [
        249, 86, 139, 181, 126, 121, 180, 0, 118, 170, 90, 136, 84, 0, 79, 58, 175, 163,
    ]  # fmt: skip
    assert hashlib.sha256(noise_tables(MEAN, STD).tobytes()).hexdigest()[:16] == "6c3c2e5f2e41f2a0"


def test_noise_is_as_the_format_says() -> None:
    """FORMAT.md's rule, written out for one box."""
    width, height, seed = 7, 5, 99
    pixels = np.zeros((8, 8, 3), np.uint8)
    erase(pixels, (1, 2, width, height, seed), mean=MEAN, std=STD)
    words = derived_bits(-(-width * height * 3 // 4), "noise", seed).tolist()
    bounds = [
        [round(65536 * stats.norm.cdf(((value + 0.5) / 255 - mean) / std)) for value in range(255)]
        for mean, std in zip(MEAN, STD, strict=True)
    ]
    expected = []
    for number in range(width * height * 3):
        uniform = words[number // 4] >> 16 * (number % 4) & 0xFFFF
        expected.append(sum(uniform >= bound for bound in bounds[number % 3]))
    assert pixels[2:7, 1:8].reshape(-1).tolist() == expected


def test_only_the_box_is_erased() -> None:
    pixels = np.full((16, 16, 3), 9, np.uint8)
    erase(pixels, (3, 4, 5, 6, 1), mean=MEAN, std=STD)
    inside = np.zeros((16, 16), bool)
    inside[4:10, 3:8] = True
    assert (pixels[~inside] == 9).all()
    assert len(np.unique(pixels[inside])) > 30
    untouched = np.full((16, 16, 3), 9, np.uint8)
    erase(untouched, (0, 0, 0, 0, 0), mean=MEAN, std=STD)
    assert (untouched == 9).all()


def test_boxes_fit_and_probability_0_is_none() -> None:
    for view in range(200):
        for size in (224, 16, 2, 1):
            box = draw_box(**{**DRAW, "size": size}, view=view, probability=1.0)
            assert fits_box(box, size)
        assert draw_box(**DRAW, view=view, probability=1.0)[2]
        assert draw_box(**DRAW, view=view, probability=0.0) == (0,) * 5


@pytest.mark.parametrize(
    "box", [(0, 0, 17, 1, 0), (16, 0, 1, 1, 0), (0, 8, 1, 9, 0), (-1, 0, 4, 4, 0), (0, 0, 4, 0, 0), (0, 0, -1, 2, 0),
            (0, 0, 0, 0, 7), (0, 0, 4, 4, -1)], ids=str,
)  # fmt: skip
def test_a_box_outside_is_refused(box: tuple[int, ...]) -> None:
    pixels = np.full((16, 16, 3), 9, np.uint8)
    with pytest.raises(ValueError, match="is not inside a view of 16 pixels"):
        erase(pixels, box, mean=MEAN, std=STD)
    assert (pixels == 9).all()
