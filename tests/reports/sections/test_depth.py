from pathlib import Path

from kdcache.reports.inputs import read_inputs
from kdcache.reports.sections.depth import depth_section
from tests.reports.looking import blocks_of, cells, notes, plots, tables
from tests.reports.synthetic import write_full, write_odd, write_stored_only


def test_profiles_shapes_and_pairs(tmp_path: Path) -> None:
    section = depth_section(read_inputs([write_full(tmp_path / "a")]).analyses)
    found = plots(section)
    assert len(found) == 4
    assert all("inet, epoch-2" in plot.svg for plot in found[:3])
    (shapes,) = tables(section)
    assert {"inet: entropy": "yes", "inet: intensity": "no"}.items() <= {
        row[0]: row[1] for row in cells(shapes)
    }.items()
    assert cells(shapes)[0][2:] == ["1", "3", "1", "2.5"]
    assert ["teacher blocks: 0 3", "student blocks: 0 1"] in [
        getattr(block, "items", None) for block in blocks_of(section)
    ]


def test_one_layer_has_no_depth(tmp_path: Path) -> None:
    section = depth_section(read_inputs([write_odd(tmp_path / "a")]).analyses)
    assert "at least two layers" in notes(section)
    assert plots(section) == []


def test_stored_statistics_know_no_dynamics(tmp_path: Path) -> None:
    section = depth_section(read_inputs([write_stored_only(tmp_path / "a")]).analyses)
    assert "No entropy, magnitude and intensity of quick" in notes(section)


def test_none_without_an_analysis() -> None:
    assert depth_section([]) is None
