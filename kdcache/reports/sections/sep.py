"""Token spectral energy over channels, with everything it must be read against."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes

from kdcache.analysis.result import Bandwidths, Layer, Sep
from kdcache.reports.blocks import Block, Details, Plot, Row, Section, Table, Text, last_layer_open
from kdcache.reports.inputs import AnalysisInput
from kdcache.reports.published import SEP_LEVELS, Published, published_for
from kdcache.reports.svg import COLOURS, draw_plot, line_label, look, reference_line
from kdcache.reports.words import NOTHING, layer_text, levels_text, number_text

_WARNING = (
    "SEP is a whiteness test on the order of the channels, not evidence of rank. Any tokens without structure along "
    "that arbitrary order, sparse and low-rank ones too, reach 90 % at 0.90 of the bins, as white noise does, and the "
    "full curve of real numbers passes 50 % near the middle whatever they are. Read each curve against white noise and "
    "against the same tokens with their channels permuted; do not choose a student's width by it."
)
_ORDERS = {
    "full": "FFT order",
    "folded": "folded",
    "sorted_spectrum": "spectrum, sorted",
    "sorted_channels": "channels, sorted",
}
# Which orders share a figure, and how to read it.
_SORTED = ("sorted_spectrum", "sorted_channels")
_FIGURES = (
    (("full",), "bins in FFT order, the published form. Real tokens give a curve that is symmetric about its middle."),
    (("folded",), "bins of the real FFT, from the mean (left) to the fastest change between channels (right)."),
    (
        _SORTED,
        "each token's bins, or its squared channels, by falling energy: what is concentrated anywhere rises early.",
    ),
)


def sep_section(analyses: Sequence[AnalysisInput]) -> Section | None:
    """Tables and curves of all analyses; None without an analysis."""
    if not analyses:
        return None
    blocks: list[Block] = [Text(_WARNING, "note")]
    found = [[(layer, layer.sep) for layer in each.analysis.layers if layer.sep is not None] for each in analyses]
    if any(found):
        blocks.append(_bandwidths(analyses, [layers[-1:] for layers in found]))
        if any(len(layers) > 1 for layers in found):
            blocks.append(Details("The table for all layers", [_bandwidths(analyses, found)]))
        zeros = [
            f"{sep.num_zero_tokens} in {each.label}, {layer_text(layer)}"
            for each, layers in zip(analyses, found, strict=True)
            for layer, sep in layers
            if sep.num_zero_tokens
        ]
        blocks.append(Text(f"Tokens without energy, in no curve: {'; '.join(zeros) or 'none'}."))
    for each in analyses:
        blocks += _curves(each, with_heading=len(analyses) > 1)
    blocks += _missing(analyses)
    return Section("sep", "Spectral energy of tokens (SEP)", blocks)


def _missing(analyses: Sequence[AnalysisInput]) -> list[Block]:
    layers = [(f"{each.label}, {layer_text(layer)}", layer.sep) for each in analyses for layer in each.analysis.layers]
    without = [name for name, sep in layers if sep is None]
    unsorted = [name for name, sep in layers if sep is not None and sep.sorted_spectrum is None]
    reasons = (
        ("spectral energy", without, "tokens without energy have none"),
        ("sorted orders", unsorted, "they need an analysis that reads records"),
    )
    return [Text(f"No {what} of {'; '.join(names)}: {reason}.", "note") for what, names, reason in reasons if names]


def _bandwidths(analyses: Sequence[AnalysisInput], found: Sequence[Sequence[tuple[Layer, Sep]]]) -> Table:
    """Of each analysis the layers given, and the published row beneath them."""
    rows: list[Row] = []
    for each, layers in zip(analyses, found, strict=True):
        for layer, sep in layers:
            name = (f"{each.label}, " if len(analyses) > 1 else "") + layer_text(layer)
            rows += [_bandwidth_row(name, order, bandwidths) for order, bandwidths in _orders(sep).items()]
        if (known := published_for(each.analysis.source, each.analysis.layers)) is not None:
            rows.append(_published_row(known))
    levels = " / ".join(SEP_LEVELS) + " %"
    return Table(
        (
            "layer",
            "bins in",
            "of",
            f"bins for {levels}",
            "share at 90 %",
            "white noise",
            "permuted",
            "90 %, range",
            "L1",
        ),
        rows,
        "Bins that hold 50 to 90 % of the energy, read off the mean curve; beside them those of Gaussian white noise "
        "of the same width, and of the same tokens with their channels in random orders: means, the range at 90 %, and "
        "the mean distance of the curves (L1, 0 to 1).",
    )


def _orders(sep: Sep) -> dict[str, Bandwidths]:
    found = {order: getattr(sep, order) for order in _ORDERS}
    return {order: each for order, each in found.items() if each is not None}


def _bandwidth_row(name: str, order: str, found: Bandwidths) -> Row:
    permuted, share = NOTHING, NOTHING
    at_90 = NOTHING
    if found.permuted is not None:
        permuted = levels_text({level: each["mean"] for level, each in found.permuted.items()}, SEP_LEVELS)
        if (ends := found.permuted.get("90")) is not None:
            at_90 = f"{ends['min']:.0f} to {ends['max']:.0f}"
    if "90" in found.bins:
        share = f"{found.bins['90'] / found.num_bins:.3f}"
    bins, noise = levels_text(found.bins, SEP_LEVELS), levels_text(found.white_noise, SEP_LEVELS)
    return Row(
        (name, _ORDERS[order], str(found.num_bins), bins, share, noise, permuted, at_90, number_text(found.permuted_l1))
    )


def _published_row(known: Published) -> Row:
    name = f"published: {known.model}" + (f" ({known.caveat})" if known.caveat else "")
    share = f"{known.sep_bins[-1] / known.num_channels:.3f}"
    bins = " / ".join(map(str, known.sep_bins))
    cells = (name, _ORDERS["full"], str(known.num_channels), bins, share, *[NOTHING] * 4)
    return Row(cells, is_reference=True)


def _curves(each: AnalysisInput, *, with_heading: bool) -> list[Block]:
    by_layer = [plots for at, layer in enumerate(each.analysis.layers) if (plots := _layer_plots(each, at, layer))]
    return last_layer_open(by_layer, each.label if with_heading else "")


def _layer_plots(each: AnalysisInput, at: int, layer: Layer) -> list[Plot]:
    plots: list[Plot] = []
    for orders, meaning in _FIGURES:
        curves = {order: found for order in orders if "mean" in (found := _curves_of(each, at, order))}
        if curves:
            plots.append(_plot(each, at, layer, curves, meaning))
    return plots


def _curves_of(each: AnalysisInput, at: int, order: str) -> dict[str, np.ndarray]:
    start = f"layers/{at}/sep/{order}/"
    return {path.removeprefix(start): values for path, values in each.curves.items() if path.startswith(start)}


def _plot(
    each: AnalysisInput, at: int, layer: Layer, curves: Mapping[str, Mapping[str, np.ndarray]], meaning: str
) -> Plot:
    def draw(axes: Axes) -> None:
        for number, (order, found) in enumerate(curves.items()):
            mean, which = found["mean"], "" if len(curves) == 1 else f", {order.removeprefix('sorted_')}"
            bins = 100 * np.arange(1, len(mean) + 1) / len(mean)
            if "std" in found:
                low, high = np.clip([mean - found["std"], mean + found["std"]], 0, 1)
                axes.fill_between(
                    bins, 100 * low, 100 * high, color=COLOURS[number], alpha=0.16, linewidth=0, label=f"± 1 std{which}"
                )
            if "permuted_low" in found and "permuted_high" in found:
                ends = 100 * found["permuted_low"], 100 * found["permuted_high"]
                axes.fill_between(bins, *ends, color=COLOURS[4], alpha=0.5, linewidth=0, label="channels permuted")
            axes.plot(bins, 100 * mean, label=f"mean, {_ORDERS[order]}", **look(number))
            if "white_noise" in found:
                reference_line(axes, list(bins), list(100 * found["white_noise"]), f"white noise{which}")
        axes.set(xlabel="bins (%)", ylabel="energy held (%)", xlim=(0, 100), ylim=(0, 101))

    first = next(iter(curves))
    return draw_plot(
        draw,
        name=f"sep-{each.number}-{at}-{first.replace('_', '-')}",
        label=f"Cumulative spectral energy, {_ORDERS[first]}, {line_label(layer_text(layer))}",
        caption=f"{layer_text(layer)}: {meaning}",
    )
