import pytest
import torch

from kdcache.pixels import normalize_pixels


def test_pixels_are_normalised_per_channel() -> None:
    pixels = torch.zeros(2, 4, 4, 3, dtype=torch.uint8)
    pixels[..., 1] = 255
    images = normalize_pixels(pixels, mean=(0.5, 0.5, 0.25), std=(0.5, 0.25, 0.5))
    assert images.shape == (2, 3, 4, 4)
    assert images.is_contiguous()
    assert [float(images[0, channel, 0, 0]) for channel in range(3)] == [-1.0, 2.0, -0.5]


def test_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(B, S, S, 3\)"):
        normalize_pixels(torch.zeros(3, 4, 4, dtype=torch.uint8), mean=(0, 0, 0), std=(1, 1, 1))
    with pytest.raises(ValueError, match="uint8"):
        normalize_pixels(torch.zeros(1, 4, 4, 3), mean=(0, 0, 0), std=(1, 1, 1))
