"""How layers change over depth, and over training where there are checkpoints."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from kdcache.analysis.result import Analysis
from kdcache.reports.blocks import Block, Bullets, Plot, Plots, Row, Section, Table, Text
from kdcache.reports.inputs import AnalysisInput
from kdcache.reports.svg import COLOURS, draw_plot, line_label, look
from kdcache.reports.words import number_text, shortened

_NUMBERS = {
    "entropy": (
        "entropy_bits",
        "channel entropy (bits)",
        "Mean entropy of a token's channel values in 100 bins over the range of all layers (at most 6.64 bits). One "
        "extreme value widens the range and lowers all; do not compare between models.",
    ),
    "magnitude": ("magnitude", "mean |x|", "Mean absolute activation of the patch tokens."),
    "intensity": (
        "intensity",
        "spectral intensity",
        "Mean amplitude over channel frequencies: where it is high, SpectralKD aligns layers.",
    ),
}


def depth_section(analyses: Sequence[AnalysisInput]) -> Section | None:
    """Profiles over depth; None without an analysis."""
    if not analyses:
        return None
    deep = [each for each in analyses if len(each.analysis.layers) > 1]
    shallow = [each.label for each in analyses if len(each.analysis.layers) < 2]
    blocks: list[Block] = []
    plots = [plot for name in _NUMBERS if (plot := _profile(deep, name)) is not None]
    if (ranks := _rank_profile(deep)) is not None:
        plots.append(ranks)
    if plots:
        blocks.append(Plots(plots))
    if any(each.analysis.depth for each in deep):
        blocks.append(_shapes(deep))
    blocks += [block for each in deep for block in _pairs(each)]
    unknown = [each.label for each in deep if not any(layer.dynamics for layer in each.analysis.layers)]
    if unknown:
        blocks.append(
            Text(
                f"No entropy, magnitude and intensity of {', '.join(unknown)}: stored statistics do not hold "
                "them, an analysis that reads records does.",
                "note",
            )
        )
    if shallow:
        blocks.append(
            Text(
                f"No profile of {', '.join(shallow)}: it takes at least two layers: a cache with a tap for each, or "
                "an analysis of the model itself.",
                "note",
            )
        )
    return Section("depth", "Over depth", blocks)


def _profile(analyses: Sequence[AnalysisInput], name: str) -> Plot | None:
    field, title, meaning = _NUMBERS[name]
    lines: list[tuple[str, list[int], list[float]]] = []
    for each in analyses:
        known = [(layer.block, getattr(layer.dynamics, field)) for layer in each.analysis.layers if layer.dynamics]
        if len(known) > 1:
            lines.append((each.label, *(list(values) for values in zip(*known, strict=True))))  # pyright: ignore[reportArgumentType]
        blocks = [layer.block for layer in each.analysis.layers]
        for checkpoint in each.analysis.checkpoints:
            lines.append((f"{each.label}, {shortened(checkpoint.weights, 24)}", blocks, getattr(checkpoint, field)))
    lines = [line for line in lines if len(line[1]) == len(line[2])]
    if not lines:
        return None

    def draw(axes: Axes) -> None:
        for number, (label, blocks, values) in enumerate(lines):
            axes.plot(blocks, values, marker=".", label=line_label(label), **look(number))
        _blocks_axis(axes, title)

    return draw_plot(draw, name=f"depth-{name}", label=f"{title} over depth", caption=meaning)


def _rank_profile(analyses: Sequence[AnalysisInput]) -> Plot | None:
    lines = {
        each.label: [(layer.block, layer.ranks.per_image["99"]) for layer in each.analysis.layers if layer.ranks]
        for each in analyses
    }
    lines = {label: points for label, points in lines.items() if len(points) > 1}
    if not lines:
        return None

    def draw(axes: Axes) -> None:
        for number, (label, points) in enumerate(lines.items()):
            blocks, spreads = [block for block, _ in points], [spread for _, spread in points]
            quartiles = [each.p25 for each in spreads], [each.p75 for each in spreads]
            colour = COLOURS[number % len(COLOURS)]
            axes.fill_between(blocks, *quartiles, color=colour, alpha=0.2, linewidth=0)
            axes.plot(blocks, [each.mean for each in spreads], marker=".", label=line_label(label), **look(number))
        _blocks_axis(axes, "components for 99 %")

    return draw_plot(
        draw,
        name="depth-ranks",
        label="Dimensions for 99 % of an image's energy over depth",
        caption="Dimensions that hold 99 % of an image's energy: mean over the images, and the band from the first to "
        "the third quartile.",
    )


def _blocks_axis(axes: Axes, title: str) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="block", ylabel=title)


def _shapes(analyses: Sequence[AnalysisInput]) -> Table:
    rows = [
        Row(
            (
                f"{each.label}: {name}",
                "yes" if depth.has_u_shape else "no",
                str(depth.minimum_at),
                *(number_text(value) for value in (depth.values[0], min(depth.values), depth.values[-1])),
            )
        )
        for each in analyses
        for name, depth in each.analysis.depth.items()
        if depth.values
    ]
    return Table(
        ("", "U-shape", "least at block", "first", "least", "last"),
        rows,
        "A U-shape: the smallest value lies inside, values fall on the way to it and rise after it (rank correlation "
        "with depth below -0.5 before and above 0.5 after).",
    )


def _pairs(each: AnalysisInput) -> list[Block]:
    analysis: Analysis = each.analysis
    if analysis.layer_pairs is None:
        return []
    pairs = analysis.layer_pairs
    items = [f"teacher blocks: {' '.join(map(str, pairs.teacher)) or 'none'}"]
    if pairs.student is not None:
        items.append(f"student blocks: {' '.join(map(str, pairs.student)) or 'none'}")
    return [
        Text(f"{each.label}: layers to align as SpectralKD does, by a rule of kdcache's: {pairs.reason}"),
        Bullets(items),
    ]
