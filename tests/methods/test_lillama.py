"""A low-rank copy of the teacher, taught block by block (arXiv:2412.16719)."""

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
