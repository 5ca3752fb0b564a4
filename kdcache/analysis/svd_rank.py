"""How many components explain the tokens of one image, by its own singular values.

Source: arXiv 2511.15572: thin SVD of each image's raw (N, C) tokens, the smallest d with
``sum of the d largest squared singular values >= level``. Here through the eigenvalues of the smaller Gram matrix in
float64, which loses nothing down to 1e-8 of the largest singular value.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

RANK_LEVELS = (80, 90, 95, 99)


def image_energies(features: Tensor, *, centred: bool = False) -> Tensor:
    """Squared singular values of each image's tokens, largest first.

    Args:
        features: (B, N, C).
        centred: Without the mean token of the image.

    Returns: (B, min(N, C)) float64 on the same device; empty for no images or no tokens.
    """
    values = features.double()
    if not values.numel():
        return values.new_zeros(len(values), min(values.shape[1:]))
    if centred:
        values = values - values.mean(dim=1, keepdim=True)
    gram = values @ values.mT if values.shape[1] <= values.shape[2] else values.mT @ values
    return torch.linalg.eigvalsh(gram).flip(-1).clamp_min(0)


def dims_at(energies: Tensor, levels: Sequence[float] = RANK_LEVELS) -> Tensor:
    """The smallest number of leading energies that hold each level.

    Args:
        energies: (..., D), not negative, in the order in which they are added up.
        levels: Percent.

    Returns: (..., len(levels)) int64; -1 where there is no energy at all.
    """
    if not energies.shape[-1]:
        return torch.full((*energies.shape[:-1], len(levels)), -1, device=energies.device)
    cumulative = energies.double().cumsum(-1)
    total = cumulative[..., -1:]
    shares = torch.tensor([level / 100 for level in levels], dtype=torch.float64, device=energies.device)
    # Rounding of the sums must not ask for one more dimension where a level is met exactly.
    wanted = total * (shares * (1 - 1e-12))
    dims = (cumulative.unsqueeze(-1) < wanted.unsqueeze(-2)).sum(-2) + 1
    return dims.where(total > 0, -1)


def per_image_dims(features: Tensor, levels: Sequence[float] = RANK_LEVELS, *, centred: bool = False) -> Tensor:
    """Dimensions that hold each level of each image's energy.

    Args:
        features: (B, N, C), one image each.
        levels: Percent.
        centred: Without the mean token of the image.

    Returns: (B, len(levels)) int64; -1 for images of zeros.
    """
    return dims_at(image_energies(features, centred=centred), levels)


def numerical_rank(energies: Tensor, num_tokens: int, num_channels: int) -> Tensor:
    """Singular values that are not rounding: above ``max(N, C) * eps(float32)`` of the largest, as numpy counts them.

    The papers' absolute threshold of 1e-10 counts what float32 leaves over as rank.

    Args:
        energies: (B, D) from `image_energies`.
        num_tokens, num_channels: N and C.

    Returns: (B,) int64; 0 for images of zeros.
    """
    tolerance = max(num_tokens, num_channels) * float(np.finfo(np.float32).eps)
    return (energies > energies[..., :1] * tolerance**2).sum(-1)


def cumulative_share(energies: Tensor) -> Tensor:
    """Fraction of the energy in the first 1, 2, ... of them; zeros where there is none."""
    cumulative = energies.double().cumsum(-1)
    return cumulative / cumulative[..., -1:].where(cumulative[..., -1:] > 0, 1)
