"""Lift (arXiv:2511.15572): a projection and LayerNorm to the teacher's width, kept at inference."""

from kdcache.losses.feature import FeatureLossName
from kdcache.methods.base import Method
from kdcache.methods.logit import label_terms
from kdcache.students.change import Init
from kdcache.students.lift import LiftChange
from kdcache.terms.tokens import Tokens


def lift(
    *,
    logit_weight: float = 0.9,
    temperature: float = 1.0,
    label_smoothing: float = 0.1,
    feature_weight: float = 0.2,
    loss: FeatureLossName = "mse",
    teacher: tuple[str, ...] = (),
    width: int | None = None,
    init: Init = "timm",
) -> Method:
    """Lifted tokens against the teacher's raw features; logits from the mean lifted token.

    Args:
        logit_weight, temperature, label_smoothing: As in `label_terms`.
        feature_weight: Weight of the token term; 0 for the control without it.
        loss, teacher: As in `Tokens`.
        width: C; None for the teacher's. Another one is for controls without a token term.
        init: Of the new layers, timm or released; see `WidthChange`.
    """
    tokens = Tokens(weight=feature_weight, loss=loss, adapter="none", teacher=teacher)
    terms = (*label_terms(logit_weight, temperature, label_smoothing), tokens)
    return Method(name="lift", terms=terms, change=LiftChange(width=width, init=init))
