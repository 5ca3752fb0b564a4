"""Spectra of the two branches of multi-depth blocks: contours in the shallow one, fine detail in the deep one?

Source: arXiv 2309.17334, which shows that its branches part by spatial frequency. Its formula is not published; the
profile is that of `RadialSpectrum`.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor, nn

from kdcache.analysis.result import BranchSpectrum
from kdcache.analysis.spectrum import RadialSpectrum
from kdcache.analysis.tokens import TokenSource
from kdcache.models.multi_depth import MultiDepthBlock

_BRANCHES = ("shallow", "deep")
_HIGH = 0.25


def measure_branches(model: nn.Module, source: TokenSource) -> list[BranchSpectrum]:
    """The spectra of every multi-depth block of a model; empty for a model without any.

    Args:
        model: The network that the source runs.
        source: Runs it once over its images.

    Blocks whose map is a single position have no frequencies and are left out.
    """
    blocks = {name: each for name, each in model.named_modules() if isinstance(each, MultiDepthBlock)}
    meters: dict[tuple[str, str], RadialSpectrum] = {}

    def add(key: tuple[str, str], module: nn.Module, inputs: Any, output: Tensor) -> None:
        if key not in meters:
            meters[key] = RadialSpectrum(output.shape[-2:])
        meters[key].update(output.detach().flatten(2).mT)

    with ExitStack() as hooks:
        for name, block in blocks.items():
            for branch in _BRANCHES:
                handle = block.get_submodule(branch).register_forward_hook(partial(add, (name, branch)))
                hooks.callback(handle.remove)
        for _ in source.batches() if blocks else ():
            pass
    found: list[BranchSpectrum] = []
    for name in blocks:
        shallow, deep = (meters[name, branch].curves() for branch in _BRANCHES)
        if len(shallow["frequency"]) > 1:
            found.append(
                BranchSpectrum(
                    block=name,
                    frequency=shallow["frequency"].tolist(),
                    shallow=shallow["log_amplitude"].tolist(),
                    deep=deep["log_amplitude"].tolist(),
                )
            )
    return found


def high_frequency_gap(spectrum: BranchSpectrum) -> float:
    """Mean of deep minus shallow log amplitude from 0.25 to 0.5 cycles; positive where the deep branch is finer."""
    high = np.asarray(spectrum.frequency) >= _HIGH
    return float((np.asarray(spectrum.deep) - np.asarray(spectrum.shallow))[high].mean())


def branches_text(branches: Sequence[BranchSpectrum]) -> str:
    """One sentence on which branch is the finer one.

    Args:
        branches: At least one block's.
    """
    gaps = [high_frequency_gap(each) for each in branches]
    finer, mean = sum(gap > 0 for gap in gaps), float(np.mean(gaps))
    return (
        f"the deep branch carries more high frequency than the shallow one in {finer} of {len(gaps)} "
        f"multi-depth blocks: log amplitude above a quarter cycle {mean:+.2f} on average ({min(gaps):+.2f} to "
        f"{max(gaps):+.2f})"
    )
