"""Affine transforms of targets, from the statistics that the cache keeps of a column."""

import math
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from kdcache.cache.record import Array
from kdcache.cache.statistics import TokenStatistics

TransformName = Literal["none", "mean", "standardize", "phi-s", "layer-norm"]
# Of the mean variance: channels that hardly vary are not blown up.
_SMALLEST_VARIANCE = 1e-6
# That of the final norm of timm's ViTs.
_LAYER_NORM_EPS = 1e-6


class Transform(nn.Module):
    """x' = (x - mean) * scale, or (x - mean) @ matrix; nothing of it is trained.

    Args:
        mean: (C,).
        factor: (C,) scale of each channel, or (C, C) matrix.
    """

    mean: Tensor
    factor: Tensor

    def __init__(self, mean: Array, factor: Array) -> None:
        super().__init__()
        self.register_buffer("mean", torch.from_numpy(mean.astype(np.float32)))
        self.register_buffer("factor", torch.from_numpy(factor.astype(np.float32)))

    def forward(self, values: Tensor) -> Tensor:
        """(B, N, C) float32 to the same shape, in float32 under autocast too."""
        centred = values - self.mean
        if self.factor.dim() == 1:
            return centred * self.factor
        with torch.autocast(values.device.type, enabled=False):
            return centred @ self.factor


def make_transform(name: TransformName, column: str, statistics: TokenStatistics) -> nn.Module:
    """The transform of a column, a module that nothing trains: (B, N, C) to the same shape, float32.

    Args:
        name: ``mean``: the column's mean is subtracted. ``standardize``: also each channel is divided by its standard
            deviation. ``phi-s``: the centred tokens are rotated so that all channels have the same variance, and
            divided by that one standard deviation: errors stay as they were but for the factor. ``layer-norm``: each
            token to mean 0 and variance 1 over its channels, as a teacher's final norm makes it but for that norm's
            trained scale and offset of each channel.
        column: Its name, for messages.
        statistics: Over the whole cache.

    Raises: ValueError where all tokens are the same, or the second moments that phi-s needs were not kept.
    Source: arXiv:2410.01680, PHI-S.
    """
    variance = statistics.variance
    if name == "layer-norm":
        return nn.LayerNorm(len(variance), eps=_LAYER_NORM_EPS, elementwise_affine=False)
    if name == "mean":
        return Transform(statistics.mean, np.ones_like(statistics.mean))
    if not variance.any():
        raise ValueError(
            f"transform={name} divides by what the tokens of column {column} vary, and all of them are the same; "
            "choose transform=none"
        )
    if name == "standardize":
        floor = _SMALLEST_VARIANCE * float(variance.mean())
        return Transform(statistics.mean, 1 / np.sqrt(np.maximum(variance, floor)))
    if not statistics.with_moments:
        raise ValueError(
            f"transform=phi-s needs second moments, which the cache does not hold of column {column}: it keeps "
            "them of patch tokens, and with full statistics; choose transform=standardize"
        )
    values, vectors = np.linalg.eigh(statistics.covariance)
    rotation = equalizing_rotation(np.maximum(values, 0))
    scale = 1 / math.sqrt(float(variance.mean()))
    return Transform(statistics.mean, (vectors @ rotation.T) * scale)


def equalizing_rotation(variances: Array) -> Array:
    """An orthogonal matrix R for which R diag(variances) Rᵀ has the same value everywhere on its diagonal.

    A Hadamard matrix where the number of channels is a power of two, else a product of plane rotations, each of which
    gives one channel the mean variance.

    Args:
        variances: (C,), none negative.

    Returns: (C, C).
    """
    channels = len(variances)
    if channels & (channels - 1) == 0:
        rotation = np.ones((1, 1))
        while len(rotation) < channels:
            rotation = np.block([[rotation, rotation], [rotation, -rotation]])
        return rotation / math.sqrt(channels)
    matrix, rotation = np.diag(variances.astype(np.float64)), np.eye(channels)
    mean = float(variances.mean())
    left = set(range(channels))
    while len(left) > 1:
        diagonal = {each: matrix[each, each] for each in left}
        low, high = min(diagonal, key=diagonal.__getitem__), max(diagonal, key=diagonal.__getitem__)
        if diagonal[high] - diagonal[low] > 0:
            turn = _plane_rotation(matrix, low, high, mean)
            rows = [low, high]
            matrix[rows] = turn @ matrix[rows]
            matrix[:, rows] = matrix[:, rows] @ turn.T
            rotation[rows] = turn @ rotation[rows]
        left.remove(low)
    return rotation


def _plane_rotation(matrix: Any, low: int, high: int, wanted: float) -> Array:
    """The rotation of two channels after which the lower one has the wanted variance, between the two."""
    a, b, c = matrix[low, low] - wanted, matrix[high, high] - wanted, matrix[low, high]
    # cos² a + 2 cos sin c + sin² b = 0 for tan = t; a <= 0 <= b, so there is a real root.
    root = math.sqrt(max(c * c - a * b, 0.0))
    tangent = (-c + root) / b if b > 0 else 0.0
    cosine = 1 / math.hypot(1.0, tangent)
    return np.array([[cosine, tangent * cosine], [-tangent * cosine, cosine]])
