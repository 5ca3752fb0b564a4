"""Finding blocks in a section."""

from collections.abc import Iterator, Sequence

from kdcache.reports.blocks import Block, Details, Plot, Plots, Section, Table, Text


def blocks_of(section: Section | None) -> list[Block]:
    """All blocks, those behind details too."""
    assert section is not None
    return list(_flat(section.blocks))


def tables(section: Section | None) -> list[Table]:
    return [block for block in blocks_of(section) if isinstance(block, Table)]


def plots(section: Section | None) -> list[Plot]:
    return [plot for block in blocks_of(section) if isinstance(block, Plots) for plot in block.plots]


def notes(section: Section | None) -> str:
    return "\n".join(block.text for block in blocks_of(section) if isinstance(block, Text) and block.role == "note")


def cells(table: Table) -> list[list[str]]:
    assert all(len(row.cells) == len(table.headings) for row in table.rows)
    return [list(row.cells) for row in table.rows]


def _flat(blocks: Sequence[Block]) -> Iterator[Block]:
    for block in blocks:
        yield block
        if isinstance(block, Details):
            yield from _flat(block.blocks)
