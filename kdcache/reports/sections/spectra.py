"""Spectra of layers: over channels, and over the token grid."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from kdcache.reports.blocks import Block, Heading, Plot, Plots, Section, Text
from kdcache.reports.inputs import AnalysisInput
from kdcache.reports.svg import depth_colours, draw_plot, line_label, log_y
from kdcache.reports.words import layer_text

_MOST_NAMED = 6


def spectra_section(analyses: Sequence[AnalysisInput]) -> Section | None:
    """Both spectra of each analysis; None without an analysis."""
    if not analyses:
        return None
    blocks: list[Block] = []
    for each in analyses:
        if len(analyses) > 1:
            blocks.append(Heading(each.label))
        plots = [plot for plot in (_channels(each), _space(each)) if plot is not None]
        blocks += [Plots(plots)] if plots else []
        if len(plots) < 2:
            blocks.append(
                Text(
                    f"{'No spectrum' if not plots else 'Only one of the two spectra'} of {each.label}: both need "
                    "an analysis that reads records, and that over space a grid of tokens.",
                    "note",
                )
            )
        flat = {
            layer.name: int(count)
            for at, layer in enumerate(each.analysis.layers)
            if (count := each.curves.get(f"layers/{at}/spatial/num_flat")) is not None and count > 0
        }
        if flat:
            counts = "; ".join(f"{count:,} of {name}" for name, count in flat.items())
            blocks.append(
                Text(f"{each.label}: maps that are the same everywhere, in no spatial spectrum: {counts}.", "note")
            )
    return Section("spectra", "Spectra", blocks)


def _named(each: AnalysisInput) -> list[tuple[int, str, tuple[float, float, float]]]:
    """Of each layer: its number, its label in the legend (few have one where they are many), its colour."""
    layers = each.analysis.layers
    named = set(range(len(layers)))
    if len(layers) > _MOST_NAMED:
        named = {0, len(layers) // 3, 2 * len(layers) // 3, len(layers) - 1}
    colours = depth_colours(len(layers))
    return [(at, line_label(layer_text(layer)) if at in named else "", colours[at]) for at, layer in enumerate(layers)]


def _channels(each: AnalysisInput) -> Plot | None:
    lines = [
        (values, label, colour)
        for at, label, colour in _named(each)
        if (values := each.curves.get(f"layers/{at}/dynamics/channel_spectrum")) is not None
    ]
    if not lines:
        return None

    def draw(axes: Axes) -> None:
        for values, label, colour in lines:
            frequency = np.linspace(0, 0.5, len(values))
            axes.plot(frequency, np.where(values > 0, values, np.nan), color=colour, label=label or None, linewidth=1.2)
        axes.set(xlabel="channel frequency k / C", ylabel="mean amplitude |F| / C")
        log_y(axes)

    return draw_plot(
        draw,
        name=f"spectra-{each.number}-channels",
        label="Channel spectrum of each layer",
        caption="Mean amplitude over channel frequencies, from blue for the first layer to red for the last; the "
        "leftmost point is the mean of the channels. A flat curve says that the order of the channels means nothing.",
    )


def _space(each: AnalysisInput) -> Plot | None:
    lines = [
        (frequency, values, label, colour)
        for at, label, colour in _named(each)
        if (frequency := each.curves.get(f"layers/{at}/spatial/frequency")) is not None
        and (values := each.curves.get(f"layers/{at}/spatial/log_amplitude")) is not None
    ]
    if not lines:
        return None

    def draw(axes: Axes) -> None:
        for frequency, values, label, colour in lines:
            axes.plot(frequency, values, color=colour, label=label or None, linewidth=1.2, marker=".", markersize=3)
        axes.set(xlabel="cycles per token", ylabel="log amplitude, relative to DC")

    return draw_plot(
        draw,
        name=f"spectra-{each.number}-space",
        label="Radial spatial spectrum of each layer",
        caption="How strongly features change across the token grid, relative to their mean over it, from slow (left) "
        "to fast changes. A steep fall means smooth maps.",
    )
