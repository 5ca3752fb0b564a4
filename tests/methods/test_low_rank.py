"""The teacher's architecture at one rank (arXiv:2512.00792)."""

import pytest

from kdcache.methods.logit import logit
from kdcache.methods.low_rank import low_rank
from kdcache.students.low_rank import LowRank


def test_it_is_logit_distillation_of_a_factored_student() -> None:
    assert low_rank().change == LowRank(rank=32)
    assert low_rank(rank=4, temperature=2.0).terms == logit(temperature=2.0).terms


def test_a_budget_takes_the_place_of_the_rank() -> None:
    assert low_rank(budget=0.2, search="top").change == LowRank(budget=0.2, search="top")
    with pytest.raises(ValueError, match="search=top would be ignored"):
        low_rank(rank=4, search="top")
