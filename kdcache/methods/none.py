"""No teacher: label-smoothed cross-entropy on the cached views. The control of every other method."""

from kdcache.methods.base import Method
from kdcache.terms.cross_entropy import CrossEntropy


def none(*, label_smoothing: float = 0.1) -> Method:
    """The student alone.

    Args:
        label_smoothing: Of the cross-entropy.
    """
    return Method(name="none", terms=(CrossEntropy(label_smoothing=label_smoothing),))
