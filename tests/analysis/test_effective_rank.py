import math
from pathlib import Path

import numpy as np
import pytest
from scipy.interpolate import PchipInterpolator
from scipy.optimize import brentq

from kdcache.analysis.effective_rank import effective_rank, read_rank_table
from kdcache.errors import UsageError

CURVE = PchipInterpolator([4, 8, 16], [20.0, 50.0, 60.0])


def test_acceptance_10_analytic_crossings_and_knee() -> None:
    """acc = 1 - exp(-r / 10): crossings at -10 ln(1 - a), knees where the slope is the chord's."""
    ranks = np.arange(1, 101, 1.0)
    found = effective_rank(ranks.tolist(), (1 - np.exp(-ranks / 10)).tolist(), 1.0)
    assert found.region[0] == pytest.approx(-10 * math.log(0.15), abs=0.01)
    assert found.region[1] == pytest.approx(-10 * math.log(0.05), abs=0.01)
    rise = math.exp(-0.1) - math.exp(-10)
    assert found.knee == pytest.approx(-10 * math.log(10 * rise / 99), abs=0.1)
    slope = rise / math.log(100)
    over_log = brentq(lambda rank: rank / 10 * math.exp(-rank / 10) - slope, 10, 60)
    assert found.knee_log == pytest.approx(over_log, abs=0.2)
    assert found.notes == []


def test_order_of_the_table_does_not_matter_and_curves_that_never_get_there() -> None:
    found = effective_rank([16, 4, 8], [60.0, 20.0, 50.0], 65.0)
    assert found.ranks == [4, 8, 16]
    assert found.region[0] == pytest.approx(brentq(lambda rank: CURVE(rank) - 0.85 * 65, 8, 16))
    assert found.region[1] is None
    assert found.notes == ["95% of the teacher: not reached, the best of the table is 60"]


def test_stretching_an_axis_moves_no_knee() -> None:
    ranks, accuracies = [2.0, 5.0, 9.0, 20.0], [10.0, 40.0, 55.0, 60.0]
    one = effective_rank(ranks, accuracies, 70.0)
    other = effective_rank([7 * rank for rank in ranks], [accuracy / 100 for accuracy in accuracies], 0.7)
    assert other.knee == pytest.approx(7 * (one.knee or 0))
    assert other.knee_log == pytest.approx(7 * (one.knee_log or 0))


def test_what_looks_odd_is_said() -> None:
    early = effective_rank([1, 2, 3], [0.99, 0.995, 1.0], 1.0)
    assert early.region == [None, None]
    assert early.notes[0] == "85% of the teacher: reached by the smallest rank of the table, 1, already"
    level = effective_rank([1, 2, 3], [0.5, 0.5, 0.5], 1.0)
    assert (level.knee, level.knee_log) == (None, None)
    assert "not monotone" in effective_rank([1, 2, 3], [0.3, 0.9, 0.6], 1.0).notes[-1]
    assert "are they in one unit?" in effective_rank([1, 2, 3], [0.3, 0.4, 0.6], 73.0).notes[-1]


@pytest.mark.parametrize(
    ("ranks", "accuracies", "teacher", "message"),
    [
        ([1, 2], [1, 2], 1.0, "three or more different ranks"),
        ([1, 2, 2], [1, 2, 3], 1.0, "three or more different ranks"),
        ([1, 2, 3], [1, 2], 1.0, "an accuracy for each"),
        ([0, 2, 3], [1, 2, 3], 1.0, "ranks must be positive, got 0"),
        ([1, 2, 3], [1, 2, 3], 0.0, "must be positive, got 0.0"),
    ],
)
def test_impossible_tables(ranks: list[float], accuracies: list[float], teacher: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        effective_rank(ranks, accuracies, teacher)


def test_tables_from_files(tmp_path: Path) -> None:
    path = tmp_path / "ranks.csv"
    path.write_text("rank,accuracy\n4,20\n8,50.5\n")
    assert read_rank_table(path) == ([4, 8], [20, 50.5])
    for text in ("rank\n4\n", "rank,accuracy\nmany,1\n", "rank,accuracy\n4\n"):
        path.write_text(text)
        with pytest.raises(UsageError, match="first line is rank,accuracy"):
            read_rank_table(path)
    with pytest.raises(UsageError, match="FileNotFoundError"):
        read_rank_table(tmp_path / "none.csv")
