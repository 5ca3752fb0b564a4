from pathlib import Path

from kdcache.cache import Cache, open_cache
from tests.conftest import GROUP


def test_a_column_is_named_after_its_group(tiny_cache: Cache) -> None:
    column = tiny_cache.find_column(kind="patch", codec="int8")
    assert (column.group, column.facts.name) == (GROUP, "blocks-1-patch-int8")
    assert column.name == f"{GROUP}/blocks-1-patch-int8"
    assert column.label == f"{GROUP}:blocks.1/patch (int8)"


def test_it_answers_for_its_facts(groups_root: Path) -> None:
    cache = open_cache(groups_root)
    for column in cache.columns:
        facts = column.facts
        assert (column.tap, column.kind, column.codec) == (facts.tap, facts.kind, facts.codec)
        assert (column.params, column.shape, column.grid) == (facts.params, facts.shape, facts.grid)
        assert (column.make_codec().name, column.make_codec().params) == (facts.codec, facts.params)
        assert column.layout().stride_bytes == column.stride_bytes == facts.stride_bytes
        assert column.layout() is column.layout()
