"""The definitions: what every form of an operation must equal. `reference_spectral` has those of the spectra."""

import torch
import torch.nn.functional as F
from torch import Tensor


def dequantize(
    targets: Tensor, scale: Tensor | None = None, shift: Tensor | None = None, *, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Targets as stored to a float type: ``scale * targets + shift`` with one scale and shift per token.

    Args:
        targets: (..., Dt) of any real dtype.
        scale: (...) or None for 1.
        shift: (...) or None for 0.
        dtype: Of the result and of what is computed; float32 or float64.
    """
    values = targets.to(dtype)
    if scale is not None:
        values = values * scale.to(dtype).unsqueeze(-1)
    if shift is not None:
        values = values + shift.to(dtype).unsqueeze(-1)
    return values


def feature_loss(kind: str, projected: Tensor, targets: Tensor) -> Tensor:
    """The loss of projected tokens (..., Dt) against decoded targets, in the dtype both have.

    Args:
        kind: ``mse``, ``smooth_l1`` (quadratic below 1), or ``cosine``, one minus it, mean over tokens.
        projected, targets: Of one shape and dtype.
    """
    if kind == "mse":
        return F.mse_loss(projected, targets)
    if kind == "smooth_l1":
        return F.smooth_l1_loss(projected, targets)
    return (1 - F.cosine_similarity(projected, targets, dim=-1)).mean()


def quantize(tokens: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Values (..., D) of int8 with scale, sum and sum of squares of each token (...), all in float32."""
    values = tokens.float()
    scale = values.abs().amax(-1) / 127
    packed = (values / scale.clamp_min(1e-30).unsqueeze(-1)).round().to(torch.int8)
    return packed, scale, values.sum(-1), values.square().sum(-1)
