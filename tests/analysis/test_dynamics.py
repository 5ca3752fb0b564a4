import math

import numpy as np
import pytest
import torch

from kdcache.analysis.dynamics import (
    DynamicsMeter,
    channel_entropy,
    channel_spectrum,
    intensity,
    magnitude,
    over_depth,
)


def test_acceptance_9_constant_channels_and_even_ones() -> None:
    assert float(channel_entropy(torch.full((2, 3, 50), 1.5), 0.0, 4.0).max()) == 0
    even = (torch.arange(200) + 0.5) / 200
    assert float(channel_entropy(even, 0.0, 1.0)) == pytest.approx(math.log2(100), abs=1e-9)
    assert round(math.log2(100), 2) == 6.64


@pytest.mark.parametrize("width", [64, 300, 1000])
def test_entropy_is_that_of_numpys_histogram(random: np.random.Generator, width: int) -> None:
    tokens = random.standard_normal((3, 4, width)).astype(np.float32)
    low, high = float(tokens.min()), float(tokens.max())
    found = channel_entropy(torch.from_numpy(tokens), low, high)
    for token, entropy in zip(tokens.reshape(-1, width), found.reshape(-1).tolist(), strict=True):
        shares = np.histogram(token, bins=100, range=(low, high))[0] / width
        shares = shares[shares > 0]
        # A value on the edge of a bin may fall to either side: one value of the token at most.
        assert entropy == pytest.approx(float(-(shares * np.log2(shares)).sum()), abs=2.5 * math.log2(width) / width)


def test_ranges_without_width_and_impossible_ones() -> None:
    assert float(channel_entropy(torch.ones(1, 8), 1.0, 1.0)) == 0
    with pytest.raises(ValueError, match=r"must not be empty, got 2\.0 to 1\.0"):
        channel_entropy(torch.ones(1, 8), 2.0, 1.0)


@pytest.mark.parametrize("width", [7, 8])
def test_spectrum_and_intensity_are_of_all_bins(random: np.random.Generator, width: int) -> None:
    tokens = random.standard_normal((2, 5, width))
    full = (np.abs(np.fft.fft(tokens, axis=-1)) / width).mean(axis=(0, 1))
    spectrum = channel_spectrum(torch.from_numpy(tokens))
    np.testing.assert_allclose(spectrum, full[: width // 2 + 1], rtol=1e-5)
    assert intensity(spectrum, width) == pytest.approx(full.mean(), rel=1e-5)
    assert float(magnitude(torch.from_numpy(tokens))) == pytest.approx(np.abs(tokens).mean())


@pytest.mark.parametrize(
    ("values", "has_u_shape", "minimum_at"),
    [
        # Published entropies of a student (arXiv:2511.06848), SoftKD and SpectralKD.
        ([2.43, 2.01, 1.82, 1.80, 1.84, 1.97, 2.16, 2.37, 2.68, 2.94, 3.01, 3.34], True, 3),
        ([1.75, 1.30, 1.16, 0.96, 0.86, 0.84, 0.98, 1.13, 1.43, 1.70, 1.67, 2.19], True, 5),
        ([1.0, 2.0, 3.0, 4.0], False, 0),
        ([4.0, 3.0, 2.0, 1.0], False, 3),
        ([1.0, 1.0, 1.0], False, 0),
        ([3.0, 9.0, 1.0, 0.5, 9.0, 0.6, 0.7], False, 3),
    ],
)
def test_u_shapes(values: list[float], has_u_shape: bool, minimum_at: int) -> None:
    depth = over_depth(values, range(len(values)))
    assert (depth.has_u_shape, depth.minimum_at) == (has_u_shape, minimum_at)


@pytest.mark.parametrize("shape", [(0, 5, 8), (3, 0, 7), (0, 8)], ids=str)
def test_no_tokens_say_nothing(shape: tuple[int, ...]) -> None:
    tokens = torch.zeros(shape)
    assert channel_spectrum(tokens).tolist() == [0] * (shape[-1] // 2 + 1)
    assert channel_entropy(tokens, 0.0, 1.0).shape == shape[:-1]
    assert float(magnitude(tokens)) == 0


def test_batches_without_images_change_nothing(random: np.random.Generator) -> None:
    tokens = torch.from_numpy(random.standard_normal((3, 5, 8)).astype(np.float32))
    meter = DynamicsMeter(8, -3.0, 3.0)
    meter.update(tokens[:0])
    assert meter.result() is None
    assert not meter.spectrum().any()
    for each in (tokens, tokens[:0]):
        meter.update(each)
    alone = DynamicsMeter(8, -3.0, 3.0)
    alone.update(tokens)
    assert meter.result() == alone.result()


def test_no_layers_have_no_trend() -> None:
    with pytest.raises(ValueError, match="needs layers"):
        over_depth([], [])
