"""Some faults in every run of the tests, a hundred in CI; a thousand by hand (docs/faults.md)."""

import dataclasses
from pathlib import Path

import pytest

from tests.faults.campaign import Outcome, run_campaign, summary


@pytest.mark.parametrize(("first", "end"), [(0, 16), pytest.param(16, 96, marks=pytest.mark.slow)])
def test_no_fault_is_unnoticed_and_nothing_is_lost(tmp_path: Path, first: int, end: int) -> None:
    outcomes, count = run_campaign(end, seed=1, folder=tmp_path, first=first), end - first
    report = summary(outcomes)
    assert report["bad"] == []
    assert report["injected"] == count
    results = [result for outcome in outcomes for result in outcome.results]
    assert results.count("detected") > count / 2
    assert results.count("restored") > count / 8


def test_a_bad_outcome_is_reported() -> None:
    """The campaign can fail: what nobody noticed is in its report."""
    fine = Outcome(0, "cache", "x.tar", "bit flipped", ("detected",))
    bad = dataclasses.replace(fine, number=1, results=("UNDETECTED",))
    assert [outcome.is_bad for outcome in (fine, bad)] == [False, True]
    assert [each["number"] for each in summary([fine, bad])["bad"]] == [1]
