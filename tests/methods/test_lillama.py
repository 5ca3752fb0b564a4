"""A low-rank copy of the teacher, taught block by block (arXiv:2412.16719)."""

import pytest

from kdcache.methods.lillama import lillama
from kdcache.students.low_rank import LowRank
from kdcache.terms.local import Local


def test_a_fifth_of_the_parameters_and_the_local_loss_alone() -> None:
    method = lillama()
    assert method.change == LowRank(budget=0.2, search="bottom")
    assert method.terms == (Local(),)
    assert not method.needs_labels


def test_a_rank_takes_the_place_of_the_budget() -> None:
    assert lillama(rank=4, mode="teacher", blocks=(0, 1)).change == LowRank(rank=4)
    assert lillama(rank=4, mode="teacher", blocks=(0, 1)).terms == (Local(mode="teacher", blocks=(0, 1)),)


def test_both_are_refused_although_one_is_the_default() -> None:
    with pytest.raises(ValueError, match=r"give rank or budget, one of them, got 4 and 0\.2"):
        lillama(rank=4, budget=0.2)


def test_steps_of_the_search_are_those_given() -> None:
    found = lillama(budget=0.4, search="top", min_rank=3, rank_step=2).change
    assert found == LowRank(budget=0.4, search="top", min_rank=3, rank_step=2)
