"""Methods by name. A method's configuration names it."""

from kdcache.methods.base import LossConfig, Method, Targets
from kdcache.methods.feature import Feature, FeatureConfig
from kdcache.methods.lift import LiftConfig, LiftMethod
from kdcache.methods.logit import Logit, LogitConfig
from kdcache.methods.none import Standalone, StandaloneConfig
from kdcache.methods.wide_last import WideLast, WideLastConfig

METHODS: dict[str, type[Method]] = {
    "none": Standalone,
    "logit": Logit,
    "feature": Feature,
    "lift": LiftMethod,
    "widelast": WideLast,
}

__all__ = [
    "METHODS",
    "FeatureConfig",
    "LiftConfig",
    "LogitConfig",
    "LossConfig",
    "Method",
    "StandaloneConfig",
    "Targets",
    "WideLastConfig",
]
