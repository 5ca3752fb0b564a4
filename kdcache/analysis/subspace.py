"""How many dimensions hold an image's tokens in one basis for all images.

Source: METHODS 1.2, dataset-level PCA of arXiv 2511.15572: eigenvectors of ``mean of x xᵀ`` over all tokens (centred:
of their covariance), in falling order; of each image the energy along each of them.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from kdcache.analysis.svd_rank import RANK_LEVELS, dims_at
from kdcache.cache.record import Array


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

    def all_tokens_dims(self, levels: Sequence[float] = RANK_LEVELS) -> list[int]:
        """Where the spectrum of the moment itself crosses each level (percent)."""
        return [int(each) for each in dims_at(self.energies, levels)]


def captured_dims(features: Tensor, basis: SharedBasis, levels: Sequence[float] = RANK_LEVELS) -> Tensor:
    """Leading vectors of a shared basis that hold each level of each image's energy.

    Args:
        features: (B, N, C).
        basis: Of all images.
        levels: Percent.

    Returns: (B, len(levels)) int64; -1 for images without energy.
    """
    return dims_at(basis.image_energies(features), levels)
