from pathlib import Path

from kdcache.reports.inputs import read_inputs
from kdcache.reports.sections.sep import sep_section
from tests.reports.looking import blocks_of, cells, notes, plots, tables
from tests.reports.synthetic import write_full, write_stored_only


def test_every_bandwidth_stands_beside_its_references(tmp_path: Path) -> None:
    section = sep_section(read_inputs([write_full(tmp_path / "a")]).analyses)
    last, every = tables(section)
    assert len(last.rows) == 4
    assert len(every.rows) == 16
    assert cells(last)[0] == [
        "blocks.3/patch (fp16)",
        "FFT order",
        "24",
        "12 / 14 / 17 / 19 / 22",
        "0.917",
        "12 / 14 / 17 / 19 / 22",
        "12 / 14 / 17 / 19 / 22",
        "21 to 23",
        "0.0123",
    ]
    assert cells(last)[2][6:] == ["\N{EN DASH}"] * 3


def test_the_warning_comes_first_and_zero_tokens_are_counted(tmp_path: Path) -> None:
    section = sep_section(read_inputs([write_full(tmp_path / "a")]).analyses)
    assert "not evidence of rank" in getattr(blocks_of(section)[0], "text", "")
    assert any("5 in inet, blocks.0/patch" in getattr(block, "text", "") for block in blocks_of(section))


def test_curves_carry_their_bands(tmp_path: Path) -> None:
    found = plots(sep_section(read_inputs([write_full(tmp_path / "a", num_layers=1, depth={})]).analyses))
    assert len(found) == 3
    for word in ("white noise", "channels permuted", "± 1 std"):
        assert word in found[0].svg
    assert "white noise, channels" in found[2].svg
    assert "permuted" not in found[2].svg


def test_what_stored_statistics_lack_is_said(tmp_path: Path) -> None:
    section = sep_section(read_inputs([write_stored_only(tmp_path / "s")]).analyses)
    assert "No spectral energy of quick, blocks.1/patch" in notes(section)
    assert "No sorted orders of quick, blocks.0/patch" in notes(section)
    assert len(tables(section)) == 1
    assert len(plots(section)) == 2


def test_none_without_an_analysis() -> None:
    assert sep_section([]) is None
