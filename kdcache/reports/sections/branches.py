"""The two branches of multi-depth blocks, by spatial frequency."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from kdcache.analysis.branches import branches_text
from kdcache.analysis.result import BranchSpectrum
from kdcache.reports.blocks import Block, Heading, Plot, Plots, Section, Text
from kdcache.reports.inputs import AnalysisInput
from kdcache.reports.svg import draw_plot, look

_BRANCHES = {"shallow": "shallow branch, one convolution", "deep": "deep branch, two convolutions"}


def branches_section(analyses: Sequence[AnalysisInput]) -> Section | None:
    """Both branches' spectra, a figure for each resolution; None without a model of multi-depth blocks."""
    known = [each for each in analyses if each.analysis.branches]
    if not known:
        return None
    blocks: list[Block] = []
    for each in known:
        branches = each.analysis.branches
        blocks += [Heading(each.label)] if len(known) > 1 else []
        blocks.append(Text(f"{branches_text(branches)}."))
        by_grid: dict[int, list[BranchSpectrum]] = {}
        for branch in branches:
            by_grid.setdefault(len(branch.frequency), []).append(branch)
        blocks.append(Plots([_plot(each.number, number, own) for number, own in enumerate(by_grid.values())]))
    return Section("branches", "Shallow and deep branches", blocks)


def _plot(analysis: int, number: int, branches: Sequence[BranchSpectrum]) -> Plot:
    """The blocks of one resolution: a thin line for each, a thick one for their mean."""
    frequency = branches[0].frequency

    def draw(axes: Axes) -> None:
        for at, (branch, label) in enumerate(_BRANCHES.items()):
            lines = [getattr(each, branch) for each in branches]
            for line in lines if len(lines) > 1 else ():
                axes.plot(frequency, line, color=look(at)["color"], linewidth=0.7, alpha=0.45)
            axes.plot(frequency, np.mean(lines, axis=0), marker=".", label=label, **look(at))
        axes.set(xlabel="cycles per position", ylabel="log amplitude, relative to DC")

    first, last = branches[0].block, branches[-1].block
    return draw_plot(
        draw,
        name=f"branches-{analysis}-{number}",
        label=f"Radial spectrum of both branches of {first} to {last}",
        caption=f"{first} to {last}: mean over the blocks (thick) and each of them (thin), from slow (left) to fast "
        "changes. Where the deep branch lies above the shallow one, it carries the finer detail.",
    )
