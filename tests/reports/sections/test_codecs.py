from dataclasses import replace
from pathlib import Path

from kdcache.cache.writer import BadSample
from kdcache.reports.blocks import Bullets, Text
from kdcache.reports.inputs import read_inputs
from kdcache.reports.sections.codecs import codecs_section
from tests.reports.looking import blocks_of, cells, tables
from tests.reports.synthetic import write_full, write_odd


def test_fidelity_of_the_analysed_layers(tmp_path: Path) -> None:
    (table,) = tables(codecs_section(read_inputs([write_full(tmp_path / "a")]).analyses, []))
    assert cells(table)[0] == [
        "inet, blocks.0/patch",
        "fp16",
        "2.000e-04",
        "4.000e-04",
        "4.000e-04",
        "0.006",
        "0",
        "0.999999",
        "0.9999",
    ]


def test_columns_and_sizes_of_a_cache(tiny_root: Path) -> None:
    inputs = read_inputs([tiny_root])
    (table,) = tables(codecs_section([], inputs.caches))
    held = inputs.caches[0].cache.columns
    assert [row[0] for row in cells(table)] == [column.name for column in held]
    assert all(row[5] != "\N{EN DASH}" for row in cells(table))


def test_bad_images_are_listed(tiny_root: Path) -> None:
    (cache,) = read_inputs([tiny_root]).caches
    bad = BadSample(position=3, key="k", source_key="cat/<3>.jpg", reason="not an image")
    found = blocks_of(codecs_section([], [replace(cache, bad=[bad])]))
    assert [list(block.items) for block in found if isinstance(block, Bullets)] == [["cat/<3>.jpg: not an image"]]


def test_a_model_has_no_codec(tmp_path: Path) -> None:
    (text,) = blocks_of(codecs_section(read_inputs([write_odd(tmp_path / "a")]).analyses, []))
    assert isinstance(text, Text)
    assert "No codec" in text.text
    assert codecs_section([], []) is None
