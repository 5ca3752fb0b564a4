"""Feature-distillation losses and token spectra on stored targets. Needs torch, and Triton on a GPU."""

from kdcache_kernels.dispatch import watch_forms
from kdcache_kernels.feature_loss import FeatureLoss, explain_backend, layer_norm_affine
from kdcache_kernels.lift import LiftedTokens, lift_mse, lift_tokens
from kdcache_kernels.proj_loss import from_components, proj_cosine, proj_mse, proj_smooth_l1
from kdcache_kernels.quantize import quantize
from kdcache_kernels.reference import dequantize
from kdcache_kernels.second_moment import mean_spectrum_from_second_moment, second_moment
from kdcache_kernels.spectral_align import spectral_align
from kdcache_kernels.token_spectrum import cumulative_energy, skipped_tokens, token_spectrum

__all__ = [
    "FeatureLoss",
    "LiftedTokens",
    "cumulative_energy",
    "dequantize",
    "explain_backend",
    "from_components",
    "layer_norm_affine",
    "lift_mse",
    "lift_tokens",
    "mean_spectrum_from_second_moment",
    "proj_cosine",
    "proj_mse",
    "proj_smooth_l1",
    "quantize",
    "second_moment",
    "skipped_tokens",
    "spectral_align",
    "token_spectrum",
    "watch_forms",
]
