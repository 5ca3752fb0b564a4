"""timm models by name: taps and weights."""

from kdcache.models.build import count_parameters, create_timm_model, load_weights, weights_sha256
from kdcache.models.taps import Tap, TapReader, parse_tap

__all__ = [
    "Tap",
    "TapReader",
    "count_parameters",
    "create_timm_model",
    "load_weights",
    "parse_tap",
    "weights_sha256",
]
