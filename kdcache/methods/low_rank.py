"""A student of low-rank factors (arXiv:2512.00792): the teacher's architecture, distilled at one rank."""

from kdcache.methods.base import Method
from kdcache.methods.logit import label_terms
from kdcache.models.factored import FactorInit
from kdcache.students.low_rank import LowRank, Search

# Near the knee of the published curve: 94.7 % of the teacher's accuracy.
_RANK = 32


def low_rank(
    *,
    rank: int | None = None,
    budget: float | None = None,
    search: Search = "bottom",
    min_rank: int | None = None,
    rank_step: int | None = None,
    init: FactorInit = "svd",
    logit_weight: float = 0.9,
    temperature: float = 1.0,
    label_smoothing: float = 0.1,
) -> Method:
    """Labels and logits; with ``init=svd`` the student begins with factors of the weights it is given.

    The paper does not say its losses' weights, temperature and initialisation: these are the logit method's, and the
    best factors of each rank.

    Args:
        rank, budget, search, min_rank, rank_step, init: As in `LowRank`; without rank and budget the
            rank is 32.
        logit_weight, temperature, label_smoothing: As in `label_terms`.
    """
    if rank is None and budget is None:
        rank = _RANK
    change = LowRank(rank=rank, budget=budget, search=search, min_rank=min_rank, rank_step=rank_step, init=init)
    return Method(name="low-rank", terms=label_terms(logit_weight, temperature, label_smoothing), change=change)
