"""How many components explain an image's tokens in one basis for all images.

Source: the dataset-level PCA of arXiv 2511.15572: eigenvectors of ``mean of x xᵀ`` over all tokens (centred:
of their covariance), in falling order; of each image the energy along each of them.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from kdcache.analysis.svd_rank import RANK_LEVELS, dims_at
from kdcache.cache.record import Array

_CPU = torch.device("cpu")
_SMALLEST_VARIANCE = 1e-6


class SharedBasis:
    """The eigenvectors of a second moment.

    Args:
        moment: (C, C) mean of x xᵀ, float64.
        mean: (C,) mean token, for a centred basis; None for the uncentred one of the published numbers.
        device: Where features will be.

    Attributes:
        energies: (C,) float64 eigenvalues, largest first.
    """

    def __init__(self, moment: Array, mean: Array | None, device: torch.device) -> None:
        matrix = moment if mean is None else moment - np.outer(mean, mean)
        values, vectors = torch.linalg.eigh(torch.from_numpy((matrix + matrix.T) / 2))
        self.energies = values.flip(0).clamp_min(0)
        self._basis = vectors.flip(1).to(device, torch.float32)
        self._mean = None if mean is None else torch.from_numpy(mean).to(device, torch.float32)

    def image_energies(self, features: Tensor) -> Tensor:
        """Energy of each image along each vector.

        Args:
            features: (B, N, C).

        Returns: (B, C) float64.
        """
        values = features.float()
        if self._mean is not None:
            values = values - self._mean
        return (values @ self._basis).square().sum(1, dtype=torch.float64)


def standardized_energies(moment: Array, mean: Array, variance: Array) -> Tensor:
    """Eigenvalues of the covariance with every channel scaled to unit variance, largest first.

    Args:
        moment: (C, C) mean of x xᵀ, float64.
        mean: (C,) mean token.
        variance: (C,) of each channel; given, for ``moment - mean²`` loses a small variance beside a large mean.

    Returns: (C,) float64.
    """
    return SharedBasis(standardized(moment - np.outer(mean, mean), variance), None, _CPU).energies


def standardized(covariance: Array, variance: Array) -> Array:
    """The covariance of the same tokens with every channel scaled to unit variance.

    Channels that hardly vary (below a millionth of the mean variance) are scaled as if they had that much, so that
    rounding is not taken for a signal.

    Args:
        covariance: (C, C).
        variance: (C,) its diagonal, exact.

    Returns: (C, C).
    """
    smallest = _SMALLEST_VARIANCE * float(variance.mean())
    if smallest <= 0:
        return np.zeros_like(covariance)
    scale = 1 / np.sqrt(np.maximum(variance, smallest))
    scaled = covariance * np.outer(scale, scale)
    np.fill_diagonal(scaled, variance * scale**2)
    return scaled


def captured_dims(features: Tensor, basis: SharedBasis, levels: Sequence[float] = RANK_LEVELS) -> Tensor:
    """Leading vectors of a shared basis that hold each level of each image's energy.

    Args:
        features: (B, N, C).
        basis: Of all images.
        levels: Percent.

    Returns: (B, len(levels)) int64; -1 for images without energy.
    """
    return dims_at(basis.image_energies(features), levels)
