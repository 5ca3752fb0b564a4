"""No teacher: label-smoothed cross-entropy on the cached views. The control of every other method."""

from dataclasses import dataclass
from typing import Literal, final

from kdcache.methods.base import LossConfig, Method, without_features
from kdcache.models import StudentSpec


@dataclass(frozen=True, kw_only=True)
class StandaloneConfig(LossConfig):
    """Label smoothing of the student alone."""

    name: Literal["none"] = "none"


@final
class Standalone(Method):
    """The student alone."""

    config_type = StandaloneConfig

    def change(self, student: StudentSpec, *, teacher_width: int) -> StudentSpec:
        return without_features(student)
