import math
from typing import Any

import pytest

from kdcache.planning.verdict import decide, duration_text
from tests.planning.support import figures


def test_break_even_is_the_pass_over_what_an_epoch_saves() -> None:
    """8 s of pass; 4 s of an epoch with the teacher and 1 s from the cache."""
    found = figures()
    assert found.pass_total_s == pytest.approx(8)
    assert (found.online_epoch_s, found.cached_epoch_s) == (pytest.approx(4), pytest.approx(1))
    assert found.break_even_epochs == pytest.approx(8 / 3)


def test_reading_counts_where_it_is_slower_than_the_step() -> None:
    assert figures(cached_read_s=2e-3).cached_epoch_s == pytest.approx(2)
    assert figures(online_read_s=9e-3).online_epoch_s == pytest.approx(9)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"epochs": 10}, "cache: it pays after 2.67 of 10 epochs and saves 22 s of 40 s"),
        ({"epochs": 3}, "cache: it pays after 2.67 of 3 epochs and saves 1 s of 12 s"),
        ({}, "cache, if students train for more than 2.67 epochs in all (none were named)"),
        ({"epochs": 2}, "do not cache: it pays after 2.67 epochs, and 2 are planned"),
        ({"size_bytes": 2 * 10**10, "epochs": 10}, "do not cache: it takes 20 GB, and 10 GB are free"),
        (
            {"cached_read_s": 5e-3, "epochs": 10},
            "do not cache: reading the cache takes 5 ms a view, a step with the teacher in the loop 4 ms",
        ),
        (
            {"step_s": 1e-2, "teacher_s": 0.0},
            "do not cache: a step takes 10 ms a view from the cache and 10 ms with the teacher in the loop",
        ),
    ],
    ids=["pays", "pays at the end", "no epochs", "too few epochs", "no room", "slow reading", "no teacher to save"],
)
def test_one_line_has_the_number_that_decides(changes: dict[str, Any], text: str) -> None:
    verdict = decide(figures(**changes))
    assert verdict.text == text
    assert verdict.caches == (not text.startswith("do not"))


def test_what_never_pays_breaks_even_nowhere() -> None:
    assert math.isinf(figures(cached_read_s=5e-3).break_even_epochs)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.5, "0.5 s"), (119, "119 s"), (150, "2.5 min"), (9000, "2.5 h"), (216000, "2.5 days")]
)
def test_durations_are_short(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text
