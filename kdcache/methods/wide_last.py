"""WideLast (arXiv:2511.15572): the student's last block at the teacher's width."""

from kdcache.losses.feature import FeatureLossName
from kdcache.methods.base import Method
from kdcache.methods.logit import label_terms
from kdcache.students.change import Init
from kdcache.students.wide_last import Schedule, WideLastChange
from kdcache.terms.tokens import Tokens


def wide_last(
    *,
    logit_weight: float = 0.9,
    temperature: float = 1.0,
    label_smoothing: float = 0.1,
    feature_weight: float = 0.2,
    loss: FeatureLossName = "mse",
    teacher: tuple[str, ...] = (),
    width: int | None = None,
    init: Init = "timm",
    schedule: Schedule = "heads_step",
) -> Method:
    """Raw tokens of the widened last block against the teacher's raw features; the class-token head stays.

    Args:
        logit_weight, temperature, label_smoothing: As in `label_terms`.
        feature_weight: Weight of the token term; 0 for the control without it.
        loss, teacher: As in `Tokens`.
        width: C; None for the teacher's. Another one is for controls without a token term.
        init, schedule: See `WideLastChange`.
    """
    tokens = Tokens(weight=feature_weight, loss=loss, adapter="none", teacher=teacher)
    terms = (*label_terms(logit_weight, temperature, label_smoothing), tokens)
    return Method(name="widelast", terms=terms, change=WideLastChange(width=width, init=init, schedule=schedule))
