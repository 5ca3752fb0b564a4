"""timm models by name: taps, weights, and the changes that methods make to students."""

from kdcache.models.build import create_timm_model, load_weights, weights_sha256
from kdcache.models.lift import Lift
from kdcache.models.student import Student, StudentSpec, build_student, count_parameters
from kdcache.models.taps import Tap, TapReader, parse_tap
from kdcache.models.wide_last import widen_last_block

__all__ = [
    "Lift",
    "Student",
    "StudentSpec",
    "Tap",
    "TapReader",
    "build_student",
    "count_parameters",
    "create_timm_model",
    "load_weights",
    "parse_tap",
    "weights_sha256",
    "widen_last_block",
]
