"""Lillama (arXiv:2412.16719): a low-rank copy of the teacher, each block taught on its own from cached blocks."""

from kdcache.methods.base import Method
from kdcache.models.factored import FactorInit
from kdcache.students.low_rank import LowRank, Search
from kdcache.terms.local import Local, Mode

_BUDGET = 0.2


def lillama(
    *,
    budget: float | None = None,
    rank: int | None = None,
    search: Search = "bottom",
    min_rank: int | None = None,
    rank_step: int | None = None,
    init: FactorInit = "svd",
    mode: Mode = "both",
    blocks: tuple[int, ...] = (),
    teacher: str = "",
) -> Method:
    """No label and no logit is read; the student's name is the teacher's, and it begins with the teacher's weights.

    Under a budget the searches bottom and top factor the blocks at one end; they alone are taught.

    Args:
        budget, rank, search, min_rank, rank_step, init: As in `LowRank`; without budget and rank the
            budget is the paper's, a fifth of the parameters.
        mode, blocks, teacher: As in `Local`.
    """
    if budget is None and rank is None:
        budget = _BUDGET
    change = LowRank(rank=rank, budget=budget, search=search, min_rank=min_rank, rank_step=rank_step, init=init)
    return Method(name="lillama", terms=(Local(mode=mode, blocks=blocks, teacher=teacher),), change=change)
