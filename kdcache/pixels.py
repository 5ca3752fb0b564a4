"""From uint8 pixels to what a model takes: the one place where images are normalised."""

from collections.abc import Sequence

import torch
from torch import Tensor


def normalize_pixels(pixels: Tensor, *, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Scale to [0, 1], subtract the mean, divide by the standard deviation.

    Args:
        pixels: (B, S, S, 3) uint8, on any device.
        mean, std: Per channel, in units of [0, 1].

    Returns: (B, 3, S, S) float32 on the same device.
    """
    if pixels.dtype != torch.uint8 or pixels.ndim != 4 or pixels.shape[-1] != 3:
        raise ValueError(f"pixels must be uint8 of shape (B, S, S, 3), got {pixels.dtype} {tuple(pixels.shape)}")
    center = torch.tensor(mean, device=pixels.device)
    spread = torch.tensor(std, device=pixels.device)
    return ((pixels.float() / 255 - center) / spread).permute(0, 3, 1, 2).contiguous()
