"""Lift (arXiv:2511.15572): a projection and LayerNorm to the teacher's width, kept at inference."""

from dataclasses import dataclass, replace
from typing import Literal, final

from kdcache.methods.base import Method, WidthTerm
from kdcache.models import StudentSpec


@dataclass(frozen=True, kw_only=True)
class LiftConfig(WidthTerm):
    """Loss terms and width of Lift."""

    name: Literal["lift"] = "lift"


@final
class LiftMethod(Method):
    """Lifted tokens against the teacher's raw features; logits from the mean lifted token."""

    config_type = LiftConfig
    config: LiftConfig

    def change(self, student: StudentSpec, *, teacher_width: int) -> StudentSpec:
        width = self.config.resolve(teacher_width)
        return replace(student, change="lift", width=width, block=-1)
