"""Soft-label distillation (arXiv:1503.02531): cross-entropy and KL to the teacher's cached logits."""

from kdcache.methods.base import Method
from kdcache.terms.base import Term
from kdcache.terms.cross_entropy import CrossEntropy
from kdcache.terms.logits import Logits


def label_terms(logit_weight: float, temperature: float, label_smoothing: float) -> tuple[Term, ...]:
    """(1 - a) cross-entropy + a T² KL, as the papers weigh labels and logits.

    Args:
        logit_weight: a, 0 to 1. At 0 no logits are needed, at 1 no labels.
        temperature: T.
        label_smoothing: Of the cross-entropy.

    Raises: ValueError.
    """
    if not 0 <= logit_weight <= 1:
        raise ValueError(f"logit_weight must be between 0 and 1, got {logit_weight}")
    return (
        CrossEntropy(weight=1 - logit_weight, label_smoothing=label_smoothing),
        Logits(weight=logit_weight, temperature=temperature),
    )


def logit(*, logit_weight: float = 0.9, temperature: float = 1.0, label_smoothing: float = 0.1) -> Method:
    """Logits only; dense or top-k.

    Args:
        logit_weight, temperature, label_smoothing: As in `label_terms`.
    """
    return Method(name="logit", terms=label_terms(logit_weight, temperature, label_smoothing))
