"""Feature distillation without a change to the student: what Lift and WideLast are measured against."""

from kdcache.losses.feature import FeatureLossName
from kdcache.methods.base import Method
from kdcache.methods.logit import label_terms
from kdcache.terms.tokens import Adapter, Tokens


def feature(
    *,
    logit_weight: float = 0.9,
    temperature: float = 1.0,
    label_smoothing: float = 0.1,
    feature_weight: float = 0.2,
    loss: FeatureLossName = "mse",
    adapter: Adapter = "linear",
    teacher: tuple[str, ...] = (),
    student_block: tuple[int, ...] = (),
) -> Method:
    """The student's own tokens against the teacher's, through a projection that is dropped at inference.

    Args:
        logit_weight, temperature, label_smoothing: As in `label_terms`.
        feature_weight: Weight of the token term; at 0 no features are needed.
        loss, adapter, teacher, student_block: As in `Tokens`.
    """
    tokens = Tokens(weight=feature_weight, loss=loss, adapter=adapter, teacher=teacher, student_block=student_block)
    return Method(name="feature", terms=(*label_terms(logit_weight, temperature, label_smoothing), tokens))
