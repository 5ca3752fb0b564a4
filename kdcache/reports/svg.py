"""Figures as SVG inside a page: text stays text, ink follows the page's colours, equal figures give equal bytes."""

import io
import re
import warnings
from collections.abc import Callable, Sequence
from typing import Any
from xml.etree import ElementTree

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from kdcache.reports.blocks import Plot
from kdcache.reports.words import shortened

# Okabe and Ito's colours. On the page each is a variable of templates/style.css, lighter where the page is dark.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
# No other colour of a figure; becomes the colour of the page's text.
INK = "#010203"
_STYLES = ("-", "--", "-.", ":")
_WIDTH_IN, _HEIGHT_IN = 4.5, 3.1
_SVG = "{http://www.w3.org/2000/svg}"
_HREF = "{http://www.w3.org/1999/xlink}href"
_LONGEST_IN_TWO_COLUMNS = 26
_LOOK: Any = {
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
    **dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), "none"),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right", "legend.frameon"), False),
    **dict.fromkeys(("font.size", "axes.labelsize", "axes.titlesize"), 10),
    **dict.fromkeys(("xtick.labelsize", "ytick.labelsize", "legend.fontsize"), 9.5),
    "axes.grid": True,
    "grid.color": INK,
    "grid.alpha": 0.13,
    "lines.linewidth": 1.6,
    "svg.fonttype": "none",
    # A dollar sign in a name is a dollar sign.
    "text.parse_math": False,
}


def look(number: int) -> dict[str, Any]:
    """Colour and line style of the number-th line of a figure, distinguishable without colour vision."""
    return {"color": COLOURS[number % len(COLOURS)], "linestyle": _STYLES[number % len(_STYLES)]}


def line_label(name: str) -> str:
    """A name from a file as a legend can show it: matplotlib leaves out what begins with an underscore."""
    printable = "".join(letter if letter.isprintable() else "?" for letter in shortened(name))
    return f" {printable}" if printable.startswith("_") else printable


def depth_colours(count: int) -> list[tuple[float, float, float]]:
    """A colour for each of so many layers, from blue for the first to red for the last.

    All have a middling brightness, so that they read on white and on black.
    """
    first, last = ([int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)] for colour in COLOURS[:2])
    mixed = [number / max(count - 1, 1) for number in range(count)]
    # Mixed in linear light (exponent 2.2): halfway stays as bright as the ends.
    return [
        tuple(((1 - share) * a**2.2 + share * b**2.2) ** (1 / 2.2) for a, b in zip(first, last, strict=True))
        for share in mixed
    ]


def reference_line(axes: Axes, x: Sequence[float], y: Sequence[float], label: str) -> None:
    """What the data are to be compared with, in ink."""
    axes.plot(x, y, color=INK, alpha=0.6, linewidth=1, linestyle=(0, (4, 3)), label=label)


def log_y(axes: Axes) -> None:
    """Make the vertical axis logarithmic, with plain numbers at its ticks. Call it after plotting."""
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0,) if high > 100 * low else (1.0, 2.0, 5.0)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def draw_plot(
    draw: Callable[[Axes], None], *, name: str, label: str, caption: str, height_in: float = _HEIGHT_IN
) -> Plot:
    """Draw a figure of one pair of axes; its legend stands below it, away from the data.

    Args:
        draw: Plots into the axes.
        name: Unique on the page; letters, digits and dashes.
        label: What a screen reader says.
        caption: How to read it.
        height_in: Of the figure without its legend; the width is the same for all.
    """
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_LOOK)
        matplotlib.rcParams["svg.hashsalt"] = name
        figure = Figure(figsize=(_WIDTH_IN, height_in), layout="constrained")
        axes = figure.subplots()
        draw(axes)
        _add_legend(figure, axes)
        buffer = io.BytesIO()
        with warnings.catch_warnings():
            # The browser brings the font; this one is for measuring only.
            warnings.filterwarnings("ignore", message="Glyph")
            figure.savefig(buffer, format="svg", metadata={"Date": None})
    return Plot(_for_page(buffer.getvalue(), name, label), caption)


def _add_legend(figure: Figure, axes: Axes) -> None:
    handles, names = axes.get_legend_handles_labels()
    if not names:
        return
    columns = 2 if max(map(len, names)) <= _LONGEST_IN_TWO_COLUMNS else 1
    rows = -(-len(names) // columns)
    figure.set_size_inches(_WIDTH_IN, figure.get_figheight() + 0.2 * rows)
    figure.legend(handles, names, loc="outside lower center", ncols=columns, handlelength=2.6)


def _for_page(data: bytes, name: str, label: str) -> Markup:
    root = ElementTree.fromstring(data)
    for parent in list(root.iter()):
        for child in list(parent):
            # The style is a rule for everything on the page; the page's own sheet has it for figures.
            if child.tag in (_SVG + "metadata", _SVG + "style"):
                parent.remove(child)
    for element in root.iter():
        _adapt(element, name)
    for attribute in ("width", "height", "version"):
        root.attrib.pop(attribute, None)
    root.set("role", "img")
    root.set("aria-label", label)
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _adapt(element: ElementTree.Element, name: str) -> None:
    """Names unique on the page, colours as variables, the page's font, no more digits than can be seen."""
    element.tag = element.tag.removeprefix(_SVG)
    element.tail = None
    if element.text is not None and not element.text.strip():
        element.text = None
    if "id" in element.attrib:
        element.set("id", f"{name}-{element.get('id')}")
    if _HREF in element.attrib:
        element.set("href", f"#{name}-{element.attrib.pop(_HREF)[1:]}")
    for attribute, value in element.attrib.items():
        value = value.replace("url(#", f"url(#{name}-").replace(INK, "currentColor")
        for number, colour in enumerate(COLOURS):
            value = value.replace(colour, f"var(--data-{number})")
        value = re.sub(r" ?font-family: [^;]*;?", "", value)
        if attribute in ("d", "x", "y", "transform"):
            value = re.sub(r"(\.\d\d)\d+", r"\1", " ".join(value.split()))
        element.set(attribute, value)
