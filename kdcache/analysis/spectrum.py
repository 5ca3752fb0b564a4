"""Spectra that compare layers: which of them SpectralKD would align, and how fine their maps are.

Source: arXiv 2412.19055 (layer pairs) and arXiv 2309.17334 (radial spectrum).
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from kdcache.analysis.result import Curves, LayerPairs

# Of a map's largest amplitude: what float32 leaves over where there is nothing.
_FLOOR = 1e-6


def propose_layer_pairs(
    intensities: Sequence[float], blocks: Sequence[int], *, student_depth: int | None
) -> LayerPairs:
    """kdcache's rule, for the published choice is a list: align the layers that speak loudest, first with first and
    last with last.

    Layers above the middle of the range of intensities are taken. Those before the weakest layer meet the student's
    first blocks, those after it its last. Where the two first and six last of CaiT-S24's 24 layers are the loud ones,
    as its paper shows, this gives the published list.

    Args:
        intensities: One a layer, in order of depth.
        blocks: Their blocks in the teacher.
        student_depth: Blocks of the student, None for none.

    Raises: ValueError for no layers.
    """
    if not intensities:
        raise ValueError("layer pairs need the intensity of at least one layer, got none")
    low, high = min(intensities), max(intensities)
    middle, weakest = (low + high) / 2, int(np.argmin(intensities))
    chosen = [at for at, value in enumerate(intensities) if value > middle or low == high]
    early, late = [at for at in chosen if at < weakest], [at for at in chosen if at >= weakest]
    reason = (
        f"intensity between {low:.3g} (block {blocks[weakest]}) and {high:.3g} (block "
        f"{blocks[int(np.argmax(intensities))]}); kdcache chooses above the middle, {middle:.3g}"
    )
    if student_depth is None:
        return LayerPairs(teacher=[blocks[at] for at in chosen], student=None, reason=reason)
    # Too many for the student: the ends of the network are kept, as in the published lists.
    late = late[max(0, len(late) - student_depth) :]
    early = early[: student_depth - len(late)]
    student = [*range(len(early)), *range(student_depth - len(late), student_depth)]
    return LayerPairs(teacher=[blocks[at] for at in [*early, *late]], student=student, reason=reason)


class RadialSpectrum:
    """Mean log amplitude of feature maps over spatial frequency.

    Two-dimensional FFT of each channel's map, log amplitude, mean over channels and images, mean over rings, zero
    frequency subtracted. Maps that are the same everywhere have no frequencies and are left out. The publication's
    exact formula is not known; this is a reading of its text.

    Args:
        grid: Rows and columns of the tokens.
    """

    def __init__(self, grid: Sequence[int]) -> None:
        self._rows, self._columns = grid
        self._total = torch.zeros(self._rows, self._columns, dtype=torch.float64)
        self._count = self._num_flat = 0

    def update(self, features: Tensor) -> None:
        """Add images.

        Args:
            features: (B, rows * columns, C), perhaps no images.
        """
        if not features.numel():
            return
        maps = features.float().mT.reshape(-1, self._rows, self._columns)
        amplitudes = torch.fft.fft2(maps).abs()
        floor = _FLOOR * amplitudes.amax((1, 2), keepdim=True)
        is_flat = (amplitudes > floor).flatten(1)[:, 1:].sum(1) == 0
        kept = amplitudes.clamp_min(floor)[~is_flat]
        self._total += kept.log().sum(0, dtype=torch.float64).cpu()
        self._count += len(kept)
        self._num_flat += len(maps) - len(kept)

    def curves(self) -> Curves:
        """``frequency`` in cycles per token, up to 0.5; ``log_amplitude`` relative to frequency 0; ``num_flat`` maps
        that were left out."""
        mean = self._total.numpy() / max(self._count, 1)
        side = max(self._rows, self._columns)
        radius = np.hypot(np.fft.fftfreq(self._rows)[:, None], np.fft.fftfreq(self._columns)[None, :])
        rings = np.rint(radius * side).astype(np.int64)
        profile = np.bincount(rings.ravel(), mean.ravel()) / np.maximum(np.bincount(rings.ravel()), 1)
        count = side // 2 + 1
        return {
            "frequency": np.arange(count) / side,
            "log_amplitude": (profile - profile[0])[:count],
            "num_flat": np.array(self._num_flat),
        }
