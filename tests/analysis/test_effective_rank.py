import math
from pathlib import Path

import numpy as np
import pytest

from kdcache.analysis.effective_rank import effective_rank, read_rank_table
from kdcache.errors import UsageError


def test_acceptance_10_analytic_crossings_and_knee() -> None:
    """acc = 1 - exp(-r / 10): crossings at -10 ln(1 - a), knee where the slope is the chord's."""
    ranks = np.arange(0, 101, 1.0)
    found = effective_rank(ranks.tolist(), (1 - np.exp(-ranks / 10)).tolist(), 1.0)
    assert found.region[0] == pytest.approx(-10 * math.log(0.15), abs=0.01)
    assert found.region[1] == pytest.approx(-10 * math.log(0.05), abs=0.01)
    slope = (1 - math.exp(-10)) / 100
    assert found.knee == pytest.approx(-10 * math.log(10 * slope), abs=0.1)
    assert found.knee_unscaled == pytest.approx(found.knee, abs=0.1)


def test_order_of_the_table_does_not_matter_and_curves_that_never_get_there() -> None:
    found = effective_rank([16, 4, 8], [60.0, 20.0, 50.0], 65.0)
    assert found.ranks == [4, 8, 16]
    assert found.region[0] == pytest.approx(10, abs=2)
    assert found.region[1] is None
    assert effective_rank([1, 2, 3], [0.99, 0.995, 1.0], 1.0).region == [None, None]
    assert effective_rank([1, 2, 3], [0.5, 0.5, 0.5], 1.0).region == [None, None]


@pytest.mark.parametrize(
    ("ranks", "accuracies", "teacher", "message"),
    [
        ([1, 2], [1, 2], 1.0, "three or more different ranks"),
        ([1, 2, 2], [1, 2, 3], 1.0, "three or more different ranks"),
        ([1, 2, 3], [1, 2], 1.0, "an accuracy for each"),
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
