"""WeCoLoRA (arXiv:2404.09326): every r-th block of the teacher with low-rank adapters, from few unlabelled images."""

from kdcache.methods.base import Method
from kdcache.students.weight_copy import Adapters, WeightCopy
from kdcache.terms.tokens import Tokens


def wecolora(
    *,
    every: int = 2,
    adapters: Adapters = "enhanced",
    rank: int = 128,
    feature_weight: float = 1.0,
    teacher: tuple[str, ...] = ("blocks.-1/prefix", "blocks.-1/patch"),
) -> Method:
    """A compressed copy of the teacher whose last block gives the teacher's tokens; no label and no logit is read.

    The student's name is the teacher's, and it begins with the teacher's weights.

    Args:
        every, adapters, rank: As in `WeightCopy`.
        feature_weight: Weight of the mean absolute difference over all tokens.
        teacher: As in `TokenTerm`: all tokens of the last block; the patch tokens alone for a teacher without others.
    """
    term = Tokens(weight=feature_weight, loss="l1", adapter="none", teacher=teacher, mean_over="tokens")
    return Method(name="wecolora", terms=(term,), change=WeightCopy(every=every, adapters=adapters, rank=rank))
