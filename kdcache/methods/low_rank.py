"""A student of low-rank factors (arXiv:2512.00792): the teacher's architecture, distilled at one rank."""

from kdcache.methods.base import Method
from kdcache.methods.logit import label_terms
from kdcache.students.low_rank import FactorInit, LowRank, Search


def low_rank(
    *,
    rank: int | None = 32,
    budget: float | None = None,
    search: Search = "bottom",
    init: FactorInit = "svd",
    logit_weight: float = 0.9,
    temperature: float = 1.0,
    label_smoothing: float = 0.1,
) -> Method:
    """Labels and logits; with ``init=svd`` the student begins with factors of the weights it is given.

    The paper does not say its losses' weights, temperature and initialisation: these are the logit method's, and the
    best factors of each rank.

    Args:
        rank, budget, search, init: As in `LowRank`; with a budget rank is none.
        logit_weight, temperature, label_smoothing: As in `label_terms`.
    """
    change = LowRank(rank=rank if budget is None else None, budget=budget, search=search, init=init)
    return Method(name="low-rank", terms=label_terms(logit_weight, temperature, label_smoothing), change=change)
