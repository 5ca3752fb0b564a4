"""Cross-entropy with the labels."""

from dataclasses import dataclass
from typing import Literal, final

from torch import Tensor, nn

from kdcache.losses import cross_entropy
from kdcache.terms.base import Inputs, Needs, Term, check_weight


@final
@dataclass(frozen=True, kw_only=True)
class CrossEntropy(Term):
    """Cross-entropy between the student's logits and the labels.

    Args:
        weight: Its factor.
        label_smoothing: Fraction of the probability spread over all classes, 0 to 1.
    """

    name: Literal["cross-entropy"] = "cross-entropy"
    weight: float = 1.0
    label_smoothing: float = 0.1

    def __post_init__(self) -> None:
        check_weight(self.weight)
        if not 0 <= self.label_smoothing <= 1:
            raise ValueError(f"label_smoothing must be between 0 and 1, got {self.label_smoothing}")

    def needs(self) -> Needs:
        """See Term."""
        return Needs(logits=True, labels=True)

    def __call__(self, inputs: Inputs, modules: nn.Module | None) -> Tensor:
        """See Term."""
        return cross_entropy(inputs.logits, inputs.labels, label_smoothing=self.label_smoothing)
