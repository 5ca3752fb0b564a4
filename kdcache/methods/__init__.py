"""Methods by name: functions that give a Method, with the paper's settings unless told otherwise."""

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from kdcache.errors import UsageError

if TYPE_CHECKING:
    from kdcache.methods.base import Method

# Names only, so that listing them loads nothing.
METHODS = {
    "none": "kdcache.methods.none:none",
    "logit": "kdcache.methods.logit:logit",
    "feature": "kdcache.methods.feature:feature",
    "spectral": "kdcache.methods.spectral:spectral",
    "lift": "kdcache.methods.lift:lift",
    "widelast": "kdcache.methods.wide_last:wide_last",
}


def load_method(name: str) -> "Callable[..., Method]":
    """The function behind a method's name.

    Raises: UsageError naming all methods.
    """
    if name not in METHODS:
        raise UsageError(f"unknown method {name!r}; choose from {', '.join(METHODS)}")
    module, _, function = METHODS[name].partition(":")
    return getattr(importlib.import_module(module), function)
