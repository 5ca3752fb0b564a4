"""Token by token: a distance between the student's tokens and a teacher's."""

from dataclasses import dataclass, replace
from typing import Any, Literal, cast, final, get_args

from torch import Tensor, nn

from kdcache import ops
from kdcache.cache.column import Column
from kdcache.losses import feature_loss, pool_channels
from kdcache.losses.feature import FEATURE_LOSSES, FeatureLossName
from kdcache.stream.targets import Payload
from kdcache.terms.base import Needs, TokenShape
from kdcache.terms.pairs import TokenTerm

Adapter = Literal["linear", "pool", "none"]
# The others need the projected tokens themselves.
_FUSED = ("mse", "smooth_l1", "cosine")


@final
@dataclass(frozen=True, kw_only=True)
class Tokens(TokenTerm):
    """Distance between tokens of the student and of a teacher, one by one.

    Args:
        loss: mse, smooth_l1, l1, cosine, normalized_mse or l1_cosine; see `feature_loss`.
        adapter: ``linear``, a projection to the teacher's width that is dropped at inference; ``pool``, neighbouring
            channels of the wider side averaged (arXiv:2412.19055's baseline, nothing to learn); ``none``, for widths
            that are equal, as those of Lift and WideLast.
    """

    name: Literal["tokens"] = "tokens"
    loss: FeatureLossName = "mse"
    adapter: Adapter = "linear"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.loss not in FEATURE_LOSSES:
            raise ValueError(f"loss must be one of {', '.join(FEATURE_LOSSES)}, got {self.loss!r}")
        if self.adapter not in get_args(Adapter):
            raise ValueError(f"adapter must be one of {', '.join(get_args(Adapter))}, got {self.adapter!r}")

    def needs(self) -> Needs:
        """See Term. Squared errors of lifted tokens need no lifted token: the product's sums suffice."""
        unformed = self.loss == "mse" and self.adapter == "none" and self.resize != "student"
        return replace(super().needs(), unformed=unformed)

    def make_adapter(self, student: TokenShape, column: Column) -> nn.Module | None:
        """See TokenTerm."""
        own, other = student.num_channels, column.shape[-1]
        if self.adapter == "none" and own != other:
            raise ValueError(
                f"the student's tokens have {own} channels and {column.label} has {other}; with adapter=none they must "
                "be equal: choose adapter=linear or pool, or a student change of that width"
            )
        if self.adapter != "linear":
            return None
        if self.loss not in _FUSED:
            return nn.Linear(own, other)
        return ops.FeatureLoss(own, other, loss=cast("Any", self.loss))

    def compare(self, student: Tensor, teacher: Payload, adapter: nn.Module | None) -> Tensor:
        """See TokenTerm."""
        if isinstance(adapter, ops.FeatureLoss):
            return adapter(student, teacher.values, scale=teacher.scale, shift=teacher.shift)
        targets = teacher.decode()
        if adapter is not None:
            student = adapter(student)
        width = min(student.shape[-1], targets.shape[-1])
        return feature_loss(pool_channels(student, width), pool_channels(targets, width), kind=self.loss)

    def compare_unformed(self, student: ops.LiftedTokens, teacher: Payload) -> Tensor:
        """See TokenTerm."""
        return student.mse(teacher.values, scale=teacher.scale, shift=teacher.shift)
