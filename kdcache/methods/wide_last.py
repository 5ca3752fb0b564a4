"""WideLast (arXiv:2511.15572): the student's last block at the teacher's width."""

from dataclasses import dataclass, replace
from typing import Literal, final

from kdcache.methods.base import Method, WidthTerm
from kdcache.models import StudentSpec


@dataclass(frozen=True, kw_only=True)
class WideLastConfig(WidthTerm):
    """Loss terms and width of WideLast."""

    name: Literal["widelast"] = "widelast"


@final
class WideLast(Method):
    """Raw tokens of the widened last block against the teacher's raw features; the class-token head stays."""

    config_type = WideLastConfig
    config: WideLastConfig

    def change(self, student: StudentSpec, *, teacher_width: int) -> StudentSpec:
        width = self.config.resolve(teacher_width)
        return replace(student, change="widelast", width=width, block=-1)
