"""Methods by name: functions that give a Method, with the paper's settings unless told otherwise."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from kdcache.config import load_named

if TYPE_CHECKING:
    from kdcache.methods.base import Method

# Names only, so that listing them loads nothing.
METHODS = {
    "none": "kdcache.methods.none:none",
    "logit": "kdcache.methods.logit:logit",
    "feature": "kdcache.methods.feature:feature",
    "spectral": "kdcache.methods.spectral:spectral",
    "proteus": "kdcache.methods.proteus:proteus",
    "lift": "kdcache.methods.lift:lift",
    "widelast": "kdcache.methods.wide_last:wide_last",
    "wecolora": "kdcache.methods.wecolora:wecolora",
    "low-rank": "kdcache.methods.low_rank:low_rank",
    "lillama": "kdcache.methods.lillama:lillama",
}


def load_method(name: str) -> "Callable[..., Method]":
    """The function behind a method's name.

    Raises: UsageError naming all methods.
    """
    return load_named(METHODS, name, "method")
