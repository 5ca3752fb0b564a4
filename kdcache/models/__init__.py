"""timm models by name: taps and weights."""

from kdcache.models.build import (
    check_model,
    count_parameters,
    create_timm_model,
    load_weights,
    num_trained_classes,
    weights_sha256,
)
from kdcache.models.names import TimmModel, resolve_name
from kdcache.models.taps import Tap, TapReader, parse_tap

__all__ = [
    "Tap",
    "TapReader",
    "TimmModel",
    "check_model",
    "count_parameters",
    "create_timm_model",
    "load_weights",
    "num_trained_classes",
    "parse_tap",
    "resolve_name",
    "weights_sha256",
]
