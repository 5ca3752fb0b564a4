"""Token spectral energy pattern: how a token's energy is spread over the frequencies of its channels.

Source: arXiv 2511.15572. FFT over channels as stored, no window, no mean removal; published numbers are
of the full FFT (D bins, FFT order), the paper's text is of the folded one (D // 2 + 1). It is a whiteness test on the
order of the channels: white noise, one-hot and low-rank tokens give the same curve. Hence the references.
"""

from collections.abc import Sequence

import msgspec
import numpy as np
import torch
from torch import Tensor

from kdcache.analysis.result import Bandwidths, Curves, Sep
from kdcache.analysis.spread import Counts
from kdcache.analysis.svd_rank import cumulative_share, dims_at
from kdcache.ops import mean_spectrum_from_second_moment, token_spectrum

SEP_LEVELS = (50, 60, 70, 80, 90)
_NOISE_TOKENS = 4096
_CHUNK_VALUES = 2**22


def bandwidths(energy: Tensor, levels: Sequence[int] = SEP_LEVELS) -> dict[str, int]:
    """Bins, in the order given, that hold each level (percent) of a mean spectrum."""
    return {str(level): int(dims) for level, dims in zip(levels, dims_at(energy, levels), strict=True)}


def white_noise(width: int) -> Tensor:
    """The expected spectrum of Gaussian white noise: even over the D bins. (D,) float64."""
    return torch.full((width,), 1 / width, dtype=torch.float64)


def token_energies(tokens: Tensor) -> Tensor:
    """Energies of the D bins of each token in FFT order, scaled to sum to 1; zeros for tokens of zeros.

    Args:
        tokens: (T, D), perhaps none.
    """
    width = tokens.shape[-1]
    if not len(tokens):
        # MKL refuses a transform of nothing, other libraries return an empty one.
        return tokens.float()
    spectrum = torch.fft.rfft(tokens.float())
    half = spectrum.real.square() + spectrum.imag.square()
    full = torch.cat([half, half[:, 1 : (width + 1) // 2].flip(1)], dim=1)
    total = full.sum(-1, keepdim=True)
    return full / total.where(total > 0, 1)


def folded(energies: Tensor) -> Tensor:
    """Energies of D bins as the D // 2 + 1 of a real FFT. Args: energies: (..., D)."""
    width = energies.shape[-1]
    result = energies[..., : width // 2 + 1].clone()
    result[..., 1 : (width + 1) // 2] *= 2
    return result


def permuted_spectra(moment: Tensor, *, permutations: int, seed: int) -> Tensor:
    """Mean spectra after random orders of the channels, from the second moment of unit-norm tokens alone.

    Args:
        moment: (D, D) mean of x xᵀ / |x|².
        permutations: How many orders.
        seed: Of the orders.

    Returns: (permutations, D) float64, bins in FFT order. The same as permuting every token.
    """
    width = len(moment)
    random = torch.Generator().manual_seed(seed)
    spectra = torch.empty(permutations, width, dtype=torch.float64)
    for number in range(permutations):
        order = torch.randperm(width, generator=random)
        spectra[number] = mean_spectrum_from_second_moment(moment[order][:, order])
    return spectra


class _CurveSums:
    """Sums of cumulative curves and of their squares."""

    def __init__(self, bins: int) -> None:
        self._first, self._second = (torch.zeros(bins, dtype=torch.float64) for _ in range(2))
        self._count = 0

    def update(self, energies: Tensor) -> None:
        curves = energies.cumsum(-1)
        self._first += curves.sum(0, dtype=torch.float64).cpu()
        self._second += curves.square_().sum(0, dtype=torch.float64).cpu()
        self._count += len(energies)

    def std(self) -> Tensor:
        count = max(self._count, 1)
        return (self._second / count - (self._first / count).square()).clamp_min(0).sqrt()


class SepMeter:
    """What only the tokens themselves can tell: spread over tokens, and orders that differ from token to token.

    Args:
        width: D.
    """

    def __init__(self, width: int) -> None:
        self._width = width
        self._per_token = {fold: [Counts(width) for _ in SEP_LEVELS] for fold in (False, True)}
        self._curves = {False: _CurveSums(width), True: _CurveSums(width // 2 + 1)}
        self._sorted = [torch.zeros(width, dtype=torch.float64) for _ in range(2)]

    def update(self, tokens: Tensor) -> None:
        """Add tokens.

        Args:
            tokens: (..., D), perhaps none.
        """
        flat = tokens.reshape(-1, self._width).float()
        if not len(flat):
            return
        shares = [level / 100 for level in SEP_LEVELS]
        for fold, counts in self._per_token.items():
            _, bins = token_spectrum(flat, levels=shares, fold=fold)
            for count, found in zip(counts, bins.unbind(-1), strict=True):
                count.update(found.where(found > 0, -1))
        for chunk in flat.split(max(1, _CHUNK_VALUES // self._width)):
            kept = chunk[chunk.square().sum(-1) > 0]
            energies = token_energies(kept)
            self._curves[False].update(energies)
            self._curves[True].update(folded(energies))
            for total, summed in zip(self._sorted, _sorted_sums(kept, energies), strict=True):
                total += summed

    def sorted_energies(self) -> Sequence[Tensor]:
        """Energies by falling order within each token, summed: of its bins, of its channels; (D,) float64 each."""
        return self._sorted

    def spread(self, fold: bool, result: Bandwidths) -> Bandwidths:
        """Complete a result with the bandwidths of single tokens."""
        counts = zip(SEP_LEVELS, self._per_token[fold], strict=True)
        spreads = {str(level): spread for level, each in counts if (spread := each.spread()) is not None}
        return msgspec.structs.replace(result, per_token=spreads)

    def curve_std(self, fold: bool) -> Tensor:
        """Standard deviation over tokens of the cumulative curve."""
        return self._curves[fold].std()


def measure_sep(
    moment: Tensor, meter: SepMeter | None, *, num_zero_tokens: int, permutations: int, seed: int
) -> tuple[Sep, Curves]:
    """Everything about the spectral energy of one layer.

    Args:
        moment: (D, D) mean of x xᵀ / |x|² over all tokens.
        meter: Of the tokens that were read; None when none were.
        num_zero_tokens: Tokens that are not in the moment.
        permutations, seed: Of the permutation control.

    Returns: the numbers, and the cumulative curves by name (``full/mean``).
    """
    curves: Curves = {}
    both: dict[bool, Bandwidths] = {}
    permuted_full = permuted_spectra(moment, permutations=permutations, seed=seed)
    in_full = mean_spectrum_from_second_moment(moment), white_noise(len(moment)), permuted_full
    for fold, name in ((False, "full"), (True, "folded")):
        energy, noise, permuted = map(folded, in_full) if fold else in_full
        result = _with_control(energy, noise, permuted)
        lines = {"mean": energy, "white_noise": noise}
        curves |= {f"{name}/{line}": cumulative_share(values).numpy() for line, values in lines.items()}
        if permutations:
            shares = cumulative_share(permuted)
            curves |= {f"{name}/permuted_low": shares.amin(0).numpy(), f"{name}/permuted_high": shares.amax(0).numpy()}
        if meter is not None:
            result = meter.spread(fold, result)
            curves[f"{name}/std"] = meter.curve_std(fold).numpy()
        both[fold] = result
    orders: dict[str, Bandwidths | None] = {"sorted_spectrum": None, "sorted_channels": None}
    if meter is not None:
        tokens = torch.randn(_NOISE_TOKENS, len(moment), generator=torch.Generator().manual_seed(seed))
        noises = _sorted_sums(tokens, token_energies(tokens))
        for name, energy, noise in zip(orders, meter.sorted_energies(), noises, strict=True):
            orders[name] = Bandwidths(num_bins=len(energy), bins=bandwidths(energy), white_noise=bandwidths(noise))
            curves |= {
                f"{name}/mean": cumulative_share(energy).numpy(),
                f"{name}/white_noise": cumulative_share(noise).numpy(),
            }
    return Sep(full=both[False], folded=both[True], **orders, num_zero_tokens=num_zero_tokens), curves


def _with_control(energy: Tensor, noise: Tensor, permuted: Tensor) -> Bandwidths:
    found = Bandwidths(num_bins=len(energy), bins=bandwidths(energy), white_noise=bandwidths(noise))
    if not len(permuted):
        return found
    dims = dims_at(permuted, SEP_LEVELS).double()
    control = {
        str(level): {"mean": float(each.mean()), "min": float(each.min()), "max": float(each.max())}
        for level, each in zip(SEP_LEVELS, dims.unbind(-1), strict=True)
    }
    distance = (cumulative_share(permuted) - cumulative_share(energy)).abs().mean()
    return msgspec.structs.replace(found, permuted=control, permuted_l1=float(distance))


def _sorted_sums(tokens: Tensor, energies: Tensor) -> tuple[Tensor, Tensor]:
    """Of tokens, none of zeros, and the energies of their bins: both spectra by falling order, summed over tokens."""
    channels = tokens.square()
    return _sorted_sum(energies), _sorted_sum(channels / channels.sum(-1, keepdim=True))


def _sorted_sum(energies: Tensor) -> Tensor:
    if energies.device.type == "cpu":
        # numpy sorts short rows of float32 several times as fast as torch.
        ascending = torch.from_numpy(np.sort(energies.numpy(), axis=-1))
    else:
        ascending = energies.sort(-1).values
    return ascending.sum(0, dtype=torch.float64).flip(0).cpu()
