"""How a token's energy is spread over the frequencies of its channels: mean spectrum and bandwidths."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from kdcache_kernels import dispatch
from kdcache_kernels.token_chunks import check_tokens, token_chunks, tokens_at_once
from kdcache_kernels.tracing import needs_operator

# A quarter of a wider token does not fit into registers, so those take the plain product with a DFT matrix.
_WIDEST_FOLD4 = 1024


def token_spectrum(tokens: Tensor, *, levels: Sequence[float] = (0.9,), fold: bool = False) -> tuple[Tensor, Tensor]:
    """Mean spectral energy of tokens over channels, and the bandwidth of each token.

    Each token's energies are scaled to sum to 1, by Parseval's identity D sum x^2. Mean energies are exact to rounding
    in the torch form, and to about 5e-4 per bin in the Triton form, whose products take tokens and DFT matrix in
    float16 (1e-3 if one channel dominates all tokens). Bandwidths are exact where no rounding of the cumulative energy
    crosses a level, else mostly off by one bin; a level of 1 asks for exactly that rounding. A token must have a root
    mean square between 1e-15 and 1e15, or be zero. Neither result is differentiable.

    Args:
        tokens: (N, D) or (B, L, D), float; a slice such as ``tokens[:, 1:]`` is not copied. Channels that do not lie
            side by side are copied first.
        levels: Shares of the energy, each in (0, 1].
        fold: False for all D bins as an FFT orders them (the numbers of arXiv:2511.15572); True for the D // 2 + 1 bins
            of a real FFT, with both halves' energy in each.

    Returns:
        energy: (D,) or (D // 2 + 1,), float32 (float64 for float64 tokens), the mean over tokens that are not zero;
            zeros if all are, NaN if a token is not finite.
        bandwidth: (N, len(levels)) or (B, L, len(levels)), int32: the smallest number of bins, in that order, that
            hold the level. 0 for tokens of zero energy (see `skipped_tokens`), -1 for tokens that are not finite.

    Raises: ValueError for no tokens, other shapes or dtypes, or levels outside (0, 1].
    """
    check_tokens(tokens)
    shares = [float(level) for level in levels]
    if not shares or not all(0 < level <= 1 for level in shares):
        raise ValueError(f"levels must be one or more numbers in (0, 1], got {tuple(levels)}")
    if tokens.stride(-1) != 1:
        tokens = tokens.contiguous()
    if needs_operator(tokens):
        return _token_spectrum(tokens, shares, fold)
    with torch.no_grad():
        return _measured(tokens, shares, fold)


def skipped_tokens(bandwidth: Tensor) -> Tensor:
    """How many tokens had no energy and are not in the mean, by their bandwidths; a scalar on the device."""
    return (bandwidth[..., 0] == 0).sum()


def cumulative_energy(energy: Tensor) -> Tensor:
    """The curve whose crossings arXiv:2511.15572 publishes: energy of the first 1, 2, ... bins, float64, ends at 1."""
    return energy.double().cumsum(-1)


@torch.library.custom_op("kd::token_spectrum", mutates_args=())
def _token_spectrum(tokens: Tensor, levels: list[float], fold: bool) -> tuple[Tensor, Tensor]:
    return _measured(tokens, levels, fold)


def _measured(tokens: Tensor, levels: list[float], fold: bool) -> tuple[Tensor, Tensor]:
    width = tokens.shape[-1]
    kernel = "spectrum_fold4" if width % 4 == 0 and width <= _WIDEST_FOLD4 else "spectrum_dft"
    if tokens.dtype != torch.float64:
        choice = dispatch.noted(f"token_spectrum {width}", dispatch.choose([kernel], tokens, width))
        if choice.form == "triton":
            return triton_form(tokens, levels, fold, kernel, choice.configs[kernel])
    return _torch_form(tokens, levels, fold)


@_token_spectrum.register_fake
def _(tokens: Tensor, levels: list[float], fold: bool) -> tuple[Tensor, Tensor]:
    width = tokens.shape[-1]
    dtype = torch.float64 if tokens.dtype == torch.float64 else torch.float32
    energy = tokens.new_empty(width // 2 + 1 if fold else width, dtype=dtype)
    return energy, tokens.new_empty((*tokens.shape[:-1], len(levels)), dtype=torch.int32)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.mark_non_differentiable(*output)


def _backward(ctx: Any, *gradients: Tensor) -> tuple[None, None, None]:
    return None, None, None


_token_spectrum.register_autograd(_backward, setup_context=_setup_context)


def triton_form(
    tokens: Tensor, levels: list[float], fold: bool, kernel: str, config: dispatch.Config
) -> tuple[Tensor, Tensor]:
    """What `token_spectrum` returns, by one of the two kernels with these settings."""
    if kernel == "spectrum_fold4":
        from kdcache_kernels.device.spectrum_fold4 import launch
    else:
        from kdcache_kernels.device.spectrum_dft import launch
    batches = tokens.unsqueeze(0) if tokens.dim() == 2 else tokens
    with torch.cuda.device_of(tokens):
        wanted = _filled(tokens.new_empty(len(levels), dtype=torch.float32), levels)
        partial, bandwidth = launch(batches, wanted, fold, config)
    bandwidth = bandwidth.view(*tokens.shape[:-1], len(levels))
    energy = _mean(partial.sum(0, dtype=torch.float64), bandwidth, tokens.shape[-1], fold)
    return energy.float(), bandwidth


def _torch_form(tokens: Tensor, levels: list[float], fold: bool) -> tuple[Tensor, Tensor]:
    width = tokens.shape[-1]
    dtype = torch.float64 if tokens.dtype == torch.float64 else torch.float32
    total: Tensor | None = None
    bandwidths: list[Tensor] = []
    for chunk in token_chunks(tokens, tokens_at_once(width, dtype, tokens.device)):
        values = chunk.reshape(-1, width).to(dtype)
        length = torch.linalg.vector_norm(values, dim=-1, keepdim=True)
        is_zero = length == 0
        # A token that is not finite, or whose length is not, becomes NaN in every bin, and one of zeros stays zeros.
        length.nan_to_num_(torch.nan, posinf=torch.nan).clamp_min_(torch.finfo(dtype).tiny)
        half = torch.fft.rfft(values, norm="ortho").abs().div_(length).square_()
        sums = half.sum(0, dtype=torch.float64)
        total = sums if total is None else total.add_(sums)
        counts = _bandwidth(half, levels, width, fold)
        first = half[:, :1]
        bandwidths.append(counts.masked_fill_(is_zero, 0).masked_fill_(first != first, -1))
    assert total is not None
    bandwidth = bandwidths[0] if len(bandwidths) == 1 else torch.cat(bandwidths)
    bandwidth = bandwidth.view(*tokens.shape[:-1], len(levels))
    return _mean(total, bandwidth, width, fold).to(dtype), bandwidth


def _bandwidth(half: Tensor, levels: list[float], width: int, fold: bool) -> Tensor:
    """One more than the bins below a level, (n, levels) int32, from energies (n, D // 2 + 1) of bins 0 .. D // 2.

    In FFT order the energy through bin D - 1 - m is 1 - (energy of bins 1 .. m), so the upper half's bins below a level
    are those m with more than 1 - level there, and the half spectrum is enough. (For even D the middle bin is counted
    with the upper half.) Cumulative energies rise, so a binary search counts those below a level.
    """
    if fold:
        folded = half[:, : width // 2].cumsum(-1).mul_(2).sub_(half[:, :1])
        return _below(folded, levels).add_(1)
    lower = _below(half[:, : (width + 1) // 2].cumsum(-1), levels)
    upper = half[:, 1 : width // 2].cumsum(-1)
    num_not_above = _below(upper, [1 - level for level in levels], or_at=True)
    return lower.sub_(num_not_above).add_(upper.shape[-1] + 1)


def _below(rising: Tensor, values: list[float], *, or_at: bool = False) -> Tensor:
    """How many of each row's numbers (n, bins) lie below each value, or at it too, (n, values) int32."""
    wanted = _filled(rising.new_empty(len(rising), len(values)), values)
    return torch.searchsorted(rising, wanted, right=or_at, out_int32=True)


def _mean(half_sum: Tensor, bandwidth: Tensor, width: int, fold: bool) -> Tensor:
    half = half_sum / (bandwidth[..., 0] != 0).sum().clamp(min=1)
    return from_half(half, width, fold)


def from_half(half: Tensor, width: int, fold: bool) -> Tensor:
    """All bins' energies, or the folded ones, from those of bins 0 .. D // 2 of a real signal.

    Args:
        half: (D // 2 + 1,).
        width: D.
        fold: As in `token_spectrum`.
    """
    inner = half[1 : width - width // 2]
    if fold:
        return torch.cat((half[:1], 2 * inner, half[inner.shape[0] + 1 :]))
    return torch.cat((half, inner.flip(0)))


def _filled(space: Tensor, values: Sequence[float]) -> Tensor:
    """Numbers written along the last axis, on the device: a copy from the host cannot be captured in a CUDA graph."""
    for number, value in enumerate(values):
        space[..., number].fill_(value)
    return space
