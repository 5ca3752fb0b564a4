from pathlib import Path

from kdcache.reports.inputs import read_inputs
from kdcache.reports.sections.times import times_section
from tests.reports.looking import cells, plots, tables
from tests.reports.synthetic import write_full
from tests.reports.synthetic_runs import write_run


def test_parts_add_up_and_the_longest_comes_first(tmp_path: Path) -> None:
    inputs = read_inputs([write_full(tmp_path / "a"), write_run(tmp_path / "r")])
    section = times_section(inputs.analyses, inputs.runs)
    (table,) = tables(section)
    assert cells(table) == [
        ["inet: reading", "1.5", "85.7 %"],
        ["inet: ranks", "0.25", "14.3 %"],
        ["inet: in all", "1.75", "100.0 %"],
    ]
    assert len(plots(section)) == 3


def test_no_time_at_all(tmp_path: Path) -> None:
    inputs = read_inputs([write_full(tmp_path / "a", seconds={"reading": 0.0})])
    assert cells(tables(times_section(inputs.analyses, []))[0])[0][2] == "\N{EN DASH}"
    assert times_section(read_inputs([write_full(tmp_path / "b", seconds={})]).analyses, []) is None
