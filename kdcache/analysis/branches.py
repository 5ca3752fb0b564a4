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


def high_frequency_gap(spectrum: BranchSpectrum, *, relative_to: int = 0) -> float:
    """Mean of deep minus shallow log amplitude from 0.25 to 0.5 cycles; positive where the deep branch is finer.

    Args:
        spectrum: Of one block.
        relative_to: Number of the frequency that both are divided by: 0 is the mean of the map, which a bias moves, 1
            the slowest change over it.
    """
    shallow, deep = (np.asarray(values) - values[relative_to] for values in (spectrum.shallow, spectrum.deep))
    return float((deep - shallow)[np.asarray(spectrum.frequency) >= _HIGH].mean())


def branches_text(branches: Sequence[BranchSpectrum]) -> str:
    """One sentence, without its full stop, on which branch is the finer one.

    Args:
        branches: At least one block's.
    """
    mean, slowest = ([high_frequency_gap(each, relative_to=number) for each in branches] for number in (0, 1))
    count = len(branches)
    return (
        f"The deep branch carries more high frequency than the shallow one in {_num_positive(mean)} of {count} "
        f"multi-depth blocks relative to the mean of the map (log amplitude from a quarter cycle on: "
        f"{np.mean(mean):+.2f} on average), and in {_num_positive(slowest)} of {count} relative to its slowest change "
        f"({np.mean(slowest):+.2f})"
    )


def _num_positive(values: Sequence[float]) -> int:
    return sum(value > 0 for value in values)
