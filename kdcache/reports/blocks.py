"""What a page is made of, before it is HTML. Text is plain everywhere: the templates escape it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from markupsafe import Markup

from kdcache.reports.words import counted


@dataclass(frozen=True)
class Heading:
    """A heading inside a section."""

    kind: ClassVar = "heading"
    text: str


@dataclass(frozen=True)
class Text:
    """A paragraph; `role` is empty, ``lead`` for the verdict, or ``note`` for what is missing or easily misread."""

    kind: ClassVar = "text"
    text: str
    role: str = ""


@dataclass(frozen=True)
class Bullets:
    """A list."""

    kind: ClassVar = "bullets"
    items: Sequence[str]


@dataclass(frozen=True)
class Row:
    """One row of a table; `is_reference` marks published numbers among measured ones."""

    cells: Sequence[str]
    is_reference: bool = False


@dataclass(frozen=True)
class Table:
    """A table; it scrolls in its own box where the page is too narrow.

    Args:
        headings: One a column; the first column holds names, all others values.
        rows: As many cells as headings.
        caption: How to read it.
        has_words: Whether the values are words, which may wrap, rather than numbers.
    """

    kind: ClassVar = "table"
    headings: Sequence[str]
    rows: Sequence[Row]
    caption: str
    has_words: bool = False


@dataclass(frozen=True)
class Plot:
    """A drawing and how to read it."""

    svg: Markup
    caption: str


@dataclass(frozen=True)
class Plots:
    """Drawings side by side where there is room."""

    kind: ClassVar = "plots"
    plots: Sequence[Plot]


@dataclass(frozen=True)
class Picture:
    """An image as a data URI with the text that stands for it."""

    uri: str
    text: str


@dataclass(frozen=True)
class Gallery:
    """Pictures that belong together, such as a view and its tokens, under the name of each.

    Args:
        entries: (name, pictures).
        caption: How to read them.
    """

    kind: ClassVar = "gallery"
    entries: Sequence[tuple[str, Sequence[Picture]]]
    caption: str


@dataclass(frozen=True)
class Details:
    """Blocks behind a line that opens them."""

    kind: ClassVar = "details"
    summary: str
    blocks: "Sequence[Block]"


Block = Heading | Text | Bullets | Table | Plots | Gallery | Details


@dataclass(frozen=True)
class Section:
    """One section; `name` is its anchor."""

    name: str
    title: str
    blocks: Sequence[Block]


def last_layer_open(by_layer: Sequence[Sequence[Plot]], heading: str) -> list[Block]:
    """The last layer's figures, those of the layers before it behind details.

    Args:
        by_layer: Figures of each layer, by depth.
        heading: Above them; empty for none.
    """
    if not by_layer:
        return []
    blocks: list[Block] = [Heading(heading)] if heading else []
    blocks.append(Plots(list(by_layer[-1])))
    if len(by_layer) > 1:
        others = [plot for plots in by_layer[:-1] for plot in plots]
        blocks.append(Details(f"{counted(len(by_layer) - 1, 'layer')} before it", [Plots(others)]))
    return blocks
