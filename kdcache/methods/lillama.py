"""Lillama (arXiv:2412.16719): a low-rank copy of the teacher, each block taught on its own from cached blocks."""

from kdcache.methods.base import Method
from kdcache.students.low_rank import FactorInit, LowRank, Search
from kdcache.terms.local import Local, Mode


def lillama(
    *,
    budget: float | None = 0.2,
    rank: int | None = None,
    search: Search = "bottom",
    init: FactorInit = "svd",
    mode: Mode = "both",
    blocks: tuple[int, ...] = (),
    teacher: str = "",
) -> Method:
    """No label and no logit is read; the student's name is the teacher's, and it begins with the teacher's weights.

    Args:
        budget, rank, search, init: As in `LowRank`; the paper takes a fifth of the parameters away.
        mode, blocks, teacher: As in `Local`.
    """
    change = LowRank(budget=budget if rank is None else None, rank=rank, search=search, init=init)
    return Method(name="lillama", terms=(Local(mode=mode, blocks=blocks, teacher=teacher),), change=change)
