"""How a network's code changes over depth: channel spectrum, channel entropy, magnitude.

Source: arXiv 2511.06848: raw patch tokens of every block; loops vectorised.
"""

from collections.abc import Sequence

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor

from kdcache.analysis.result import Depth, Dynamics

NUM_ENTROPY_BINS = 100
_CHUNK_VALUES = 2**22
_CLEAR_TREND = 0.5


def channel_spectrum(tokens: Tensor) -> Tensor:
    """Mean amplitude of the tokens' FFT over channels, divided by C.

    Args:
        tokens: (..., C), perhaps none.

    Returns: (C // 2 + 1,) float64; the other half of the C bins mirrors it. Zeros for no tokens.
    """
    width = tokens.shape[-1]
    flat = tokens.reshape(-1, width).float()
    if not len(flat):
        return flat.new_zeros(width // 2 + 1, dtype=torch.float64)
    return torch.fft.rfft(flat).abs().mean(0, dtype=torch.float64) / width


def intensity(spectrum: Tensor, width: int) -> float:
    """Mean over all C bins of a channel spectrum: how strong a layer speaks.

    Args:
        spectrum: (C // 2 + 1,) from `channel_spectrum`.
        width: C.
    """
    twice = spectrum[1 : (width + 1) // 2]
    return float(spectrum.sum() + twice.sum()) / width


def channel_entropy(tokens: Tensor, low: float, high: float, *, num_bins: int = NUM_ENTROPY_BINS) -> Tensor:
    """Entropy of each token's histogram over its channels.

    Args:
        tokens: (..., C).
        low, high: One range for everything that is compared: the published tool takes the smallest and largest value
            of all layers, which one outlier decides. Values outside count in the outermost bins.
        num_bins: Bins of equal width.

    Returns: (...,) float64 bits, 0 to log2(num_bins).
    Raises: ValueError for an empty range.
    """
    if not low <= high:
        raise ValueError(f"the range of the histogram must not be empty, got {low} to {high}")
    width = tokens.shape[-1]
    flat = tokens.reshape(-1, width).float()
    scale = num_bins / (high - low) if high > low else 0.0
    entropies: list[Tensor] = []
    for chunk in flat.split(max(1, _CHUNK_VALUES // max(width, num_bins))):
        bins = ((chunk - low) * scale).to(torch.int64).clamp_(0, num_bins - 1)
        bins += torch.arange(len(chunk), device=chunk.device).unsqueeze(1) * num_bins
        counts = torch.bincount(bins.reshape(-1), minlength=len(chunk) * num_bins).view(len(chunk), num_bins)
        entropies.append(torch.special.entr(counts.double() / width).sum(-1) / np.log(2))
    found = torch.cat(entropies) if entropies else flat.new_zeros(0, dtype=torch.float64)
    return found.view(tokens.shape[:-1])


def magnitude(tokens: Tensor) -> Tensor:
    """Mean of |x|, a scalar, float64; 0 for no tokens."""
    return tokens.abs().sum(dtype=torch.float64) / max(1, tokens.numel())


class DynamicsMeter:
    """The three of one layer, over batches of images.

    Args:
        width: C.
        low, high: Range of the entropy's histogram.
    """

    def __init__(self, width: int, low: float, high: float) -> None:
        self._width, self._low, self._high = width, low, high
        self._spectrum = torch.zeros(width // 2 + 1, dtype=torch.float64)
        self._entropy = self._magnitude = 0.0
        self._images = 0

    def update(self, features: Tensor) -> None:
        """Add (B, N, C) tokens, perhaps of no images."""
        if not features.numel():
            return
        self._spectrum += channel_spectrum(features).cpu() * len(features)
        self._entropy += float(channel_entropy(features, self._low, self._high).mean()) * len(features)
        self._magnitude += float(magnitude(features)) * len(features)
        self._images += len(features)

    def spectrum(self) -> Tensor:
        """The mean channel spectrum; zeros without images."""
        return self._spectrum / max(1, self._images)

    def result(self) -> Dynamics | None:
        """The numbers; None without images."""
        if not self._images:
            return None
        return Dynamics(
            entropy_bits=self._entropy / self._images,
            magnitude=self._magnitude / self._images,
            intensity=intensity(self.spectrum(), self._width),
        )


def over_depth(values: Sequence[float], blocks: Sequence[int]) -> Depth:
    """Whether a number falls and then rises with depth.

    Args:
        values: One a layer, in order of depth, at least three.
        blocks: Their blocks.

    Raises: ValueError for no layers.
    """
    if not values:
        raise ValueError("a trend over depth needs layers, got none")
    lowest = int(np.argmin(values))
    inside = 0 < lowest < len(values) - 1
    has_u_shape = inside and _trend(values[: lowest + 1]) < -_CLEAR_TREND and _trend(values[lowest:]) > _CLEAR_TREND
    return Depth(values=[float(value) for value in values], has_u_shape=has_u_shape, minimum_at=blocks[lowest])


def _trend(values: Sequence[float]) -> float:
    if min(values) == max(values):
        return 0.0
    return float(spearmanr(np.arange(len(values)), values).statistic)  # pyright: ignore
