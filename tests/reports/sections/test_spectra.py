from dataclasses import replace
from pathlib import Path

import numpy as np

from kdcache.reports.inputs import read_inputs
from kdcache.reports.sections.spectra import spectra_section
from tests.reports.looking import notes, plots
from tests.reports.synthetic import write_full, write_stored_only


def test_both_spectra_of_every_layer(tmp_path: Path) -> None:
    section = spectra_section(read_inputs([write_full(tmp_path / "a")]).analyses)
    found = plots(section)
    assert len(found) == 2
    assert all(plot.svg.count("(fp16)</text>") == 4 for plot in found)
    assert notes(section) == ""


def test_flat_maps_are_counted(tmp_path: Path) -> None:
    [found] = read_inputs([write_full(tmp_path / "a")]).analyses
    counted = replace(found, curves={**found.curves, "layers/1/spatial/num_flat": np.array(1234)})
    assert "in no spatial spectrum: 1,234 of blocks.1/patch." in notes(spectra_section([counted]))


def test_of_many_layers_few_are_named(tmp_path: Path) -> None:
    found = plots(spectra_section(read_inputs([write_full(tmp_path / "a", num_layers=12, depth={})]).analyses))
    named = [name for name in range(12) if f"blocks.{name}/patch" in found[0].svg]
    assert named == [0, 4, 8, 11]


def test_what_stored_statistics_lack_is_said(tmp_path: Path) -> None:
    section = spectra_section(read_inputs([write_stored_only(tmp_path / "a")]).analyses)
    assert "No spectrum of quick" in notes(section)


def test_none_without_an_analysis() -> None:
    assert spectra_section([]) is None
