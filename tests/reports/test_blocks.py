from pathlib import Path
from typing import get_args

from markupsafe import Markup

from kdcache.reports import blocks

TEMPLATE = Path(blocks.__file__).parent / "templates" / "blocks.html"


def test_the_template_knows_every_kind_of_block() -> None:
    text = TEMPLATE.read_text()
    kinds = {block.kind for block in get_args(blocks.Block)}
    assert len(kinds) == len(get_args(blocks.Block))
    # The last branch takes what is left: details.
    assert {kind for kind in kinds if f'"{kind}"' in text} == kinds - {"details"}


def test_the_last_layer_is_open_and_the_others_are_behind_details() -> None:
    first, last = (blocks.Plot(Markup(name), "") for name in ("first", "last"))
    heading, shown, details = blocks.last_layer_open([[first], [last]], "cache")
    assert heading == blocks.Heading("cache")
    assert shown == blocks.Plots([last])
    assert isinstance(details, blocks.Details)
    assert (details.summary, details.blocks) == ("1 layer before it", [blocks.Plots([first])])
    assert blocks.last_layer_open([[last]], "") == [blocks.Plots([last])]
    assert blocks.last_layer_open([], "cache") == []
