"""Tables for a terminal."""

from collections.abc import Sequence


def text_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns of even width, the first to the left, all others to the right.

    Args:
        headings: One a column.
        rows: Cells as text, as many as headings.
    """
    widths = [max(len(row[column]) for row in [headings, *rows]) for column in range(len(headings))]
    lines = [_line(headings, widths), "  ".join("-" * width for width in widths)]
    return "\n".join([*lines, *(_line(row, widths) for row in rows)])


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = (
        cell.ljust(width) if column == 0 else cell.rjust(width)
        for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
    )
    return "  ".join([first, *others]).rstrip()
