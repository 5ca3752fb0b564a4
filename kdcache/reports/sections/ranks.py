"""How many components explain the energy of a layer."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes

from kdcache.analysis.result import Layer, Ranks
from kdcache.reports.blocks import Block, Details, Plot, Plots, Row, Section, Table, Text, last_layer_open
from kdcache.reports.inputs import AnalysisInput, RunInput
from kdcache.reports.published import PUBLISHED, RANK_LEVELS, Published, published_for
from kdcache.reports.student_width import student_widths
from kdcache.reports.svg import INK, draw_plot, line_label, log_y, look, reference_line
from kdcache.reports.words import NOTHING, layer_text, levels_text, number_text, p99_text, share_text

_LEVELS = " / ".join(RANK_LEVELS) + " %"
_HEADINGS = ("model", "layer", "C", f"per image, {_LEVELS}", f"shared basis, {_LEVELS}")
_LEAST_SHOWN_PERCENT = 0.01
_CURVES = {
    "per_image": "each image's own basis",
    "per_image_centred": "own basis, centred",
    "shared": "one basis for all images",
    "shared_centred": "one basis, centred",
    "all_tokens": "all tokens together",
    "all_tokens_centred": "all tokens, centred",
}


def ranks_section(analyses: Sequence[AnalysisInput], runs: Sequence[RunInput] = ()) -> Section | None:
    """Tables and curves of all analyses; None without an analysis.

    Args:
        analyses: The analyses.
        runs: Runs whose students' widths are drawn where no analysis is about a student.
    """
    if not analyses:
        return None
    found = [(each, layer, layer.ranks) for each in analyses for layer in each.analysis.layers if layer.ranks]
    blocks: list[Block] = []
    if found:
        blocks += [_dimensions(analyses), _published_table(), _beside(found, with_label=len(analyses) > 1)]
    if len(analyses) > 1 and (plot := _comparison(analyses)) is not None:
        blocks.append(Plots([plot]))
    for each in analyses:
        blocks += _curves(each, runs, with_heading=len(analyses) > 1)
    blocks += _missing(analyses)
    return Section("ranks", "Ranks: components that explain the energy", blocks)


def _missing(analyses: Sequence[AnalysisInput]) -> list[Block]:
    layers = [
        (f"{each.label}, {layer_text(layer)}", layer.ranks) for each in analyses for layer in each.analysis.layers
    ]
    notes: list[Block] = []
    if without := [name for name, ranks in layers if ranks is None]:
        notes.append(Text(f"No ranks of {'; '.join(without)}: tokens without energy have none.", "note"))
    if unshared := [name for name, ranks in layers if ranks is not None and ranks.shared is None]:
        notes.append(
            Text(
                f"No ranks in a shared basis of {'; '.join(unshared)}: made from stored statistics, and they need an "
                "analysis that reads records.",
                "note",
            )
        )
    return notes


def published_row(each: Published) -> Row:
    """A published model in the shape of the measured table."""
    per_image, shared = (" / ".join(map(str, values)) for values in (each.per_image, each.shared))
    return Row((f"published: {each.model}", "last", str(each.num_channels), per_image, shared), is_reference=True)


def _dimensions(analyses: Sequence[AnalysisInput]) -> Table:
    rows: list[Row] = []
    for each in analyses:
        for layer in each.analysis.layers:
            if layer.ranks is not None:
                dimensions = (p99_text(layer.ranks.per_image, RANK_LEVELS), p99_text(layer.ranks.shared, RANK_LEVELS))
                rows.append(Row((each.label, layer_text(layer), str(layer.num_channels), *dimensions)))
        if (known := published_for(each.analysis.source, each.analysis.layers)) is not None:
            rows.append(published_row(known))
    return Table(
        _HEADINGS,
        rows,
        "Dimensions that hold 80, 90, 95 and 99 % of an image's energy, 99th percentile over the images, uncentred: in "
        "the image's own singular vectors, and in one basis for all images. A 1 at 80 % means that one common "
        "direction holds nearly everything. Small numbers per image are partly due to the number of tokens N, which "
        "caps them.",
    )


def _published_table() -> Details:
    return Details(
        "All published models",
        [
            Table(
                _HEADINGS,
                [published_row(each) for each in PUBLISHED],
                "arXiv 2511.15572: 1,000 ImageNet validation images, one of each class; last layer before the final "
                "norm; 99th percentile over the images.",
            )
        ],
    )


def _beside(found: Sequence[tuple[AnalysisInput, Layer, Ranks]], *, with_label: bool) -> Table:
    rows: list[Row] = []
    for each, layer, ranks in found:
        own, own_centred = ranks.per_image, ranks.per_image_centred
        shared, shared_centred = ranks.shared, ranks.shared_centred
        rows.append(
            Row(
                (
                    (f"{each.label}, " if with_label else "") + layer_text(layer),
                    str(ranks.max_rank),
                    *(
                        _of(None if spread is None else spread["99"].p99, ranks.max_rank)
                        for spread in (own, own_centred)
                    ),
                    *(
                        _of(None if spread is None else spread["99"].p99, layer.num_channels)
                        for spread in (shared, shared_centred)
                    ),
                    levels_text(ranks.all_tokens, ("99",)),
                    levels_text(ranks.all_tokens_centred, ("99",)),
                    number_text(None if ranks.numerical is None else ranks.numerical.median),
                )
            )
        )
    headings = ("layer", "min(N, C)", "per image", "… centred", "shared basis", "… centred", "all tokens", "… centred")
    return Table(
        (*headings, "numerical rank"),
        rows,
        "Components for 99 %, 99th percentile over the images, and their fraction of what is possible: min(N, C) "
        "per image, C in a shared basis. Where centring changes a number much, a common mean holds the energy, not "
        "many directions. The numerical rank is the median over the images.",
    )


def _of(value: float | None, whole: int) -> str:
    return NOTHING if value is None else f"{value:.0f} ({share_text(value / whole)})"


def _curves(each: AnalysisInput, runs: Sequence[RunInput], *, with_heading: bool) -> list[Block]:
    by_layer = [
        plots
        for at, layer in enumerate(each.analysis.layers)
        if (plots := _energy(each, at, layer, student_widths(each, layer.column, runs)))
    ]
    return last_layer_open(by_layer, each.label if with_heading else "")


def _energy(each: AnalysisInput, at: int, layer: Layer, widths: Mapping[str, int]) -> list[Plot]:
    """What the strongest components explain, and on a logarithmic axis what they leave out.

    Args:
        each, at, layer: The layer and its number.
        widths: Channels of students by name, each a vertical line.
    """
    curves = {
        title: each.curves[path]
        for name, title in _CURVES.items()
        if (path := f"layers/{at}/ranks/{name}") in each.curves
    }
    if not curves:
        return []
    dimensions = f"components kept, of {layer.num_channels}"

    def held(axes: Axes) -> None:
        for number, (title, values) in enumerate(curves.items()):
            axes.plot(np.arange(1, len(values) + 1), 100 * values, label=title, **look(number))
        _width_lines(axes, widths, layer, (0, 100))
        axes.set(xlabel=dimensions, ylabel="energy explained (%)", ylim=(0, 101))

    def left_out(axes: Axes) -> None:
        for number, (title, values) in enumerate(curves.items()):
            rest = 100 * (1 - values)
            axes.plot(np.arange(1, len(values) + 1), np.where(rest > 0, rest, np.nan), label=title, **look(number))
        reference_line(axes, [1, layer.num_channels], [1, 1], "1 %")
        _width_lines(axes, widths, layer, (_LEAST_SHOWN_PERCENT, 100))
        axes.set(xlabel=dimensions, ylabel="energy left out (%)")
        log_y(axes)
        axes.set_ylim(_LEAST_SHOWN_PERCENT, 100)

    name, title = f"ranks-{each.number}-{at}", line_label(layer_text(layer))
    return [
        draw_plot(
            held,
            name=name,
            label=f"Cumulative energy over components, {title}",
            caption=f"{layer_text(layer)}: mean energy that the strongest components explain. The gap between an "
            "image's own basis and one for all is what turns from image to image; a fixed linear map cannot follow it. "
            "A dotted line marks a student's channels: a fixed map from them, with a bias, reaches at most where it "
            "meets the curve of all tokens, centred.",
        ),
        draw_plot(
            left_out,
            name=f"{name}-rest",
            label=f"Energy left out over components, {title}",
            caption=f"{layer_text(layer)}: the same as what is left out, on a logarithmic axis. Where a curve meets "
            "the dashed line, 99 % is held.",
        ),
    ]


def _width_lines(axes: Axes, widths: Mapping[str, int], layer: Layer, heights: tuple[float, float]) -> None:
    for name, width in widths.items():
        if width <= layer.num_channels:
            axes.plot([width, width], heights, color=INK, linewidth=1.2, linestyle=":", label=width_label(name, width))


def width_label(student: str, width: int) -> str:
    """``192 channels of deit_tiny_patch16_224``, as a legend has it."""
    return line_label(f"{width} channels of {student}")


def _comparison(analyses: Sequence[AnalysisInput]) -> Plot | None:
    curves = {
        each.label: values
        for each in analyses
        if each.analysis.layers
        and (values := each.curves.get(f"layers/{len(each.analysis.layers) - 1}/ranks/per_image")) is not None
    }
    if len(curves) < 2:
        return None

    def draw(axes: Axes) -> None:
        for number, (label, values) in enumerate(curves.items()):
            shares = 100 * np.arange(1, len(values) + 1) / len(values)
            axes.plot(shares, 100 * values, label=line_label(label), **look(number))
        axes.set(xlabel="components kept (% of min(N, C))", ylabel="energy explained (%)", ylim=(0, 101))

    return draw_plot(
        draw,
        name="ranks-all",
        label="Cumulative energy of the last layers of all analyses",
        caption="The last layer of each analysis, every image in its own basis. A curve that rises earlier needs fewer "
        "of the components it could have.",
    )
