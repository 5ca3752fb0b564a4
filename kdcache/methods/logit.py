"""Soft-label distillation (arXiv:1503.02531): cross-entropy and KL to the teacher's cached logits."""

from dataclasses import dataclass
from typing import Literal, final

from kdcache.methods.base import LogitTerm, Method, without_features
from kdcache.models import StudentSpec


@dataclass(frozen=True, kw_only=True)
class LogitConfig(LogitTerm):
    """Weight and temperature of the logit term."""

    name: Literal["logit"] = "logit"


@final
class Logit(Method):
    """Logits only; dense or top-k."""

    config_type = LogitConfig

    def change(self, student: StudentSpec, *, teacher_width: int) -> StudentSpec:
        return without_features(student)
