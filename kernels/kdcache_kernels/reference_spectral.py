"""The obvious formulas behind spectra, second moments and SpectralKD's loss: what every form must equal."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def token_energies(tokens: Tensor, *, fold: bool = False) -> Tensor:
    """Normalised spectral energies of each token, (..., D) or (..., D // 2 + 1), in the tokens' dtype.

    Args:
        tokens: (..., D), none of them zero.
        fold: Bins of a real FFT with the mirrored ones added, instead of all.
    """
    width = tokens.shape[-1]
    energies = torch.fft.fft(tokens).abs().square()
    if fold:
        mirrored = F.pad(energies[..., width // 2 + 1 :].flip(-1), (1, 1 - width % 2))
        energies = energies[..., : width // 2 + 1] + mirrored
    return energies / energies.sum(-1, keepdim=True)


def token_bandwidth(energies: Tensor, levels: Sequence[float]) -> Tensor:
    """Smallest number of bins whose energies reach each level, (..., len(levels)).

    Args:
        energies: (..., bins), summing to 1.
        levels: Each in (0, 1].
    """
    cumulative = energies.cumsum(-1)
    counts = torch.stack([(cumulative < level).sum(-1) + 1 for level in levels], -1)
    return counts.clamp(max=energies.shape[-1])


def token_spectrum(tokens: Tensor, levels: Sequence[float] = (0.9,)) -> tuple[Tensor, Tensor]:
    """Mean energy of each bin over tokens (..., D), and the bandwidth of each token for each level."""
    energies = token_energies(tokens)
    return energies.flatten(0, -2).mean(0), token_bandwidth(energies, levels)


def second_moment(tokens: Tensor, *, unit_norm: bool = False, weights: Tensor | None = None) -> Tensor:
    """Mean of x x^T over tokens (..., D), or of x x^T / |x|^2; none of them zero."""
    values = tokens.reshape(-1, tokens.shape[-1])
    if unit_norm:
        values = F.normalize(values, dim=-1)
    weights = torch.ones_like(values[:, 0]) if weights is None else weights.reshape(-1)
    return torch.einsum("n,nc,nd->cd", weights / weights.sum(), values, values)


def mean_spectrum_from_second_moment(matrix: Tensor) -> Tensor:
    """Diagonal of F C F^H over D, (D,)."""
    fourier = torch.fft.fft(torch.eye(matrix.shape[0], dtype=matrix.dtype, device=matrix.device))
    return (fourier @ matrix.to(fourier.dtype) @ fourier.mH).diagonal().real / matrix.shape[0]


def spectral_align(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    """SpectralKD's loss as published: channels of the wider map pooled, FFT over the grid, MSE of both parts.

    Args:
        student_map: (B, C_s, H, W).
        teacher_map: (B, C_t, H, W).

    Source: arXiv:2412.19055.
    """
    channels = min(student_map.shape[1], teacher_map.shape[1])
    return F.mse_loss(_spectrum(student_map, channels), _spectrum(teacher_map, channels))


def _spectrum(maps: Tensor, channels: int) -> Tensor:
    if maps.shape[1] != channels:
        lines = maps.permute(0, 2, 3, 1).flatten(1, 2)
        maps = F.adaptive_avg_pool1d(lines, channels).unflatten(1, maps.shape[2:]).permute(0, 3, 1, 2)
    return torch.view_as_real(torch.fft.rfft2(maps, norm="ortho"))
