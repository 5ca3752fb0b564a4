"""All measurements of one layer, fed batch by batch; memory does not grow with images."""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field

import numpy as np
import torch
from torch import Tensor

from kdcache.analysis.dynamics import DynamicsMeter
from kdcache.analysis.result import Curves, Layer, Ranks, Sep, Spread
from kdcache.analysis.sep import SepMeter, measure_sep
from kdcache.analysis.spectrum import RadialSpectrum
from kdcache.analysis.spread import Counts
from kdcache.analysis.subspace import SharedBasis, standardized_energies
from kdcache.analysis.svd_rank import RANK_LEVELS, cumulative_share, dims_at, image_energies, numerical_rank
from kdcache.analysis.tokens import LayerFacts
from kdcache.cache.record import Array
from kdcache.cache.statistics import TokenStatistics

_TINY = float(np.finfo(np.float64).tiny)


@dataclass
class Stopwatch:
    """Seconds by kind of work.

    Args:
        device: Waited for, so that its work is counted where it belongs.
    """

    device: torch.device
    seconds: dict[str, float] = field(default_factory=dict[str, float])

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Count what happens inside."""
        began = time.perf_counter()
        yield
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began


class DimsMeter:
    """Dimensions that hold each level of each image's energy, and the mean curve.

    Args:
        bins: The most dimensions possible.
    """

    def __init__(self, bins: int) -> None:
        self._counts = [Counts(bins) for _ in RANK_LEVELS]
        self._curve = torch.zeros(bins, dtype=torch.float64)
        self._images = 0

    def update(self, energies: Tensor) -> None:
        """Add the (B, bins) energies of images, in the order in which they are added up; empty images do not count."""
        kept = energies[energies.sum(-1) > 0]
        for count, dims in zip(self._counts, dims_at(kept).unbind(-1), strict=True):
            count.update(dims)
        self._curve += cumulative_share(kept).sum(0).cpu()
        self._images += len(kept)

    def spreads(self) -> dict[str, Spread] | None:
        """By level; None without images."""
        found = [count.spread() for count in self._counts]
        return {str(level): each for level, each in zip(RANK_LEVELS, found, strict=True) if each is not None} or None

    def curve(self) -> Array:
        """The mean cumulative share."""
        return (self._curve / max(self._images, 1)).numpy()


class LayerMeter:
    """What the tokens of one layer tell.

    Args:
        facts: The layer.
        statistics: Over all its tokens, with second moments.
        value_range: Smallest and largest value of all layers, for the entropy.
        device: Where tokens will be.
        stopwatch: For the seconds.
    """

    def __init__(
        self,
        facts: LayerFacts,
        statistics: TokenStatistics,
        *,
        value_range: tuple[float, float],
        device: torch.device,
        stopwatch: Stopwatch,
    ) -> None:
        self._facts, self._statistics, self._stopwatch = facts, statistics, stopwatch
        smaller, width = min(facts.num_tokens, facts.num_channels), facts.num_channels
        self._per_image, self._centred = DimsMeter(smaller), DimsMeter(smaller)
        self._numerical = Counts(smaller)
        moment = statistics.raw_moment / max(statistics.count, 1)
        self._bases = [SharedBasis(moment, mean, device) for mean in (None, statistics.mean)]
        self._standardized = standardized_energies(moment, statistics.mean, statistics.variance)
        self._shared = [DimsMeter(width) for _ in self._bases]
        self._sep = SepMeter(width)
        self._spatial = RadialSpectrum(facts.grid) if len(facts.grid) == 2 else None
        self._dynamics = DynamicsMeter(width, *value_range)
        self._images = 0

    def update(self, features: Tensor) -> None:
        """Add images.

        Args:
            features: (B, N, C) float32 on the device.
        """
        with self._stopwatch("ranks of each image"):
            energies = image_energies(features)
            self._numerical.update(numerical_rank(energies, *features.shape[1:]))
            self._per_image.update(energies)
            self._centred.update(image_energies(features, centred=True))
        with self._stopwatch("ranks in a shared basis"):
            for basis, meter in zip(self._bases, self._shared, strict=True):
                meter.update(basis.image_energies(features))
        with self._stopwatch("spectral energy of tokens"):
            self._sep.update(features)
        with self._stopwatch("dynamics"):
            self._dynamics.update(features)
        if self._spatial is not None:
            with self._stopwatch("spatial spectrum"):
                self._spatial.update(features)
        self._images += len(features)

    def add_stored(self, energies: Array) -> None:
        """Take (images, min(N, C)) stored squared singular values in place of tokens."""
        stored = torch.from_numpy(energies)
        self._per_image.update(stored)
        self._numerical.update(numerical_rank(stored, self._facts.num_tokens, self._facts.num_channels))

    def result(self, *, permutations: int, seed: int) -> tuple[Layer, Curves]:
        """The numbers and the curves.

        Args:
            permutations, seed: Of the permutation control.
        """
        with self._stopwatch("spectral energy of tokens"):
            sep, sep_curves = self._measured_sep(permutations, seed)
        curves = {f"sep/{name}": values for name, values in sep_curves.items()}
        ranks = self._ranks(curves)
        if self._images:
            curves["dynamics/channel_spectrum"] = self._dynamics.spectrum().numpy()
        if self._spatial is not None and self._images:
            curves |= {f"spatial/{name}": values for name, values in self._spatial.curves().items()}
        return Layer(**asdict(self._facts), ranks=ranks, sep=sep, dynamics=self._dynamics.result()), curves

    def _measured_sep(self, permutations: int, seed: int) -> tuple[Sep | None, Curves]:
        statistics = self._statistics
        if statistics.num_zero_tokens == statistics.count:
            return None, {}
        moment = torch.from_numpy(statistics.unit_moment / max(statistics.count - statistics.num_zero_tokens, 1))
        return measure_sep(
            moment,
            self._sep if self._images else None,
            num_zero_tokens=statistics.num_zero_tokens,
            permutations=permutations,
            seed=seed,
        )

    def _ranks(self, curves: Curves) -> Ranks | None:
        per_image = self._per_image.spreads()
        if per_image is None:
            return None
        curves["ranks/per_image"] = self._per_image.curve()
        if self._images:
            curves["ranks/per_image_centred"] = self._centred.curve()
            curves["ranks/shared"] = self._shared[0].curve()
            curves["ranks/shared_centred"] = self._shared[1].curve()
        spectra = [*(basis.energies for basis in self._bases), self._standardized]
        levels = [str(level) for level in RANK_LEVELS]
        crossings: list[dict[str, int]] = []
        for name, energies in zip(("", "_centred", "_standardized"), spectra, strict=True):
            curves[f"ranks/all_tokens{name}"] = cumulative_share(energies).numpy()
            crossings.append(dict(zip(levels, dims_at(energies).tolist(), strict=True)))
        mean = self._statistics.mean
        return Ranks(
            max_rank=min(self._facts.num_tokens, self._facts.num_channels),
            per_image=per_image,
            per_image_centred=self._centred.spreads(),
            numerical=self._numerical.spread(),
            shared=self._shared[0].spreads(),
            shared_centred=self._shared[1].spreads(),
            all_tokens=crossings[0],
            all_tokens_centred=crossings[1],
            all_tokens_standardized=crossings[2],
            num_tokens=self._statistics.count,
            mean_energy=min(1.0, float(mean @ mean) / max(float(self._bases[0].energies.sum()), _TINY)),
        )


def value_range(statistics: list[TokenStatistics]) -> tuple[float, float]:
    """Smallest and largest value of all layers; 0 and 0 where there were no tokens."""
    counted = [each for each in statistics if each.count]
    if not counted:
        return 0.0, 0.0
    return (
        float(np.min([each.minimum.min() for each in counted])),
        float(np.max([each.maximum.max() for each in counted])),
    )
