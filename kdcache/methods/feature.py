"""Feature distillation without a change to the student: what Lift and WideLast are measured against."""

from dataclasses import dataclass, replace
from typing import Any, Literal, cast, final

from torch import Tensor, nn

from kdcache import ops
from kdcache.losses import feature_loss, pool_channels
from kdcache.methods.base import FeatureTerm, Method
from kdcache.models import StudentSpec
from kdcache.stream.targets import PackedTargets

# normalized_mse normalises the projected tokens as well, so they must exist.
_FUSED = ("mse", "smooth_l1", "cosine")


@dataclass(frozen=True, kw_only=True)
class FeatureConfig(FeatureTerm):
    """Loss terms, and how the two widths meet.

    Args:
        adapter: ``linear``, a projection to the teacher's width that is dropped at inference; ``pool``, neighbouring
            channels of the wider side averaged (arXiv:2412.19055's baseline, nothing to learn).
        block: The student's block, negative from the end.
    """

    name: Literal["feature"] = "feature"
    adapter: Literal["linear", "pool"] = "linear"
    block: int = -1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.adapter not in ("linear", "pool"):
            raise ValueError(f"adapter must be linear or pool, got {self.adapter!r}")


@final
class Feature(Method):
    """The student's own tokens against the teacher's."""

    config_type = FeatureConfig
    config: FeatureConfig

    def change(self, student: StudentSpec, *, teacher_width: int) -> StudentSpec:
        return replace(student, change="none", width=0, block=self.config.block if self.feature_weight > 0 else None)

    def adapter(self, student_width: int, teacher_width: int) -> nn.Module | None:
        if self.config.adapter == "pool":
            return None
        if self.config.feature_loss not in _FUSED:
            return nn.Linear(student_width, teacher_width)
        return ops.FeatureLoss(student_width, teacher_width, loss=cast("Any", self.config.feature_loss))

    def feature_term(self, tokens: Tensor, targets: PackedTargets, adapter: nn.Module | None) -> Tensor:
        if isinstance(adapter, ops.FeatureLoss):
            payload = targets.payload()
            return adapter(tokens, payload.values, scale=payload.scale, shift=payload.shift)
        if adapter is not None:
            return feature_loss(adapter(tokens), targets.decode(), kind=self.config.feature_loss)
        teacher = targets.decode()
        width = min(tokens.shape[-1], teacher.shape[-1])
        return feature_loss(pool_channels(tokens, width), pool_channels(teacher, width), kind=self.config.feature_loss)
