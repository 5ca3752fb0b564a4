from pathlib import Path
from typing import get_args

from kdcache.reports import blocks

TEMPLATE = Path(blocks.__file__).parent / "templates" / "blocks.html"


def test_the_template_knows_every_kind_of_block() -> None:
    text = TEMPLATE.read_text()
    kinds = {block.kind for block in get_args(blocks.Block)}
    assert len(kinds) == len(get_args(blocks.Block))
    # The last branch takes what is left: details.
    assert {kind for kind in kinds if f'"{kind}"' in text} == kinds - {"details"}
