from pathlib import Path

from kdcache.analysis.result import EffectiveRank
from kdcache.reports.inputs import read_inputs
from kdcache.reports.sections.effective_rank import effective_rank_section
from kdcache.reports.words import NOTHING
from tests.reports.looking import cells, notes, plots, tables
from tests.reports.synthetic import write_full


def test_region_and_both_knees(tmp_path: Path) -> None:
    section = effective_rank_section(read_inputs([write_full(tmp_path / "a")]).analyses)
    assert cells(tables(section)[0]) == [["inet", "73", "9.5", "22", "10", "12"]]
    assert "85 to 95 % of the teacher" in plots(section)[0].svg


def test_a_region_that_is_not_reached_and_an_unsorted_table(tmp_path: Path) -> None:
    rank = EffectiveRank(
        ranks=[8.0, 4.0, 8.0], accuracies=[60.0, 40.0, 60.0], teacher_accuracy=90.0, region=[None, None], knee=8.0,
        knee_log=None, notes=["85 % of the teacher: not reached, the best of the table is 60"],
    )  # fmt: skip
    section = effective_rank_section(read_inputs([write_full(tmp_path / "a", effective_rank=rank)]).analyses)
    assert cells(tables(section)[0])[0][2:] == [NOTHING, NOTHING, "8", NOTHING]
    assert "inet: 85 % of the teacher: not reached, the best of the table is 60." in notes(section)
    assert "of the teacher</text>" not in plots(section)[0].svg


def test_none_where_none_was_asked_for(tmp_path: Path) -> None:
    assert effective_rank_section(read_inputs([write_full(tmp_path / "a", effective_rank=None)]).analyses) is None
