"""The one door to kdcache_kernels: fused operations on targets as the cache stores them, and spectra of tokens."""

from kdcache_kernels import (
    FeatureLoss,
    LiftedTokens,
    lift_tokens,
    mean_spectrum_from_second_moment,
    quantize,
    second_moment,
    spectral_align,
    token_spectrum,
    watch_forms,
)

__all__ = [
    "FeatureLoss",
    "LiftedTokens",
    "lift_tokens",
    "mean_spectrum_from_second_moment",
    "quantize",
    "second_moment",
    "spectral_align",
    "token_spectrum",
    "watch_forms",
]
