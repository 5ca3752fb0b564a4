"""Feature-distillation losses and token spectra on stored targets. Needs torch, and Triton on a GPU."""

from kdcache_kernels.feature_loss import FeatureLoss, layer_norm_affine, which
from kdcache_kernels.proj_loss import proj_cosine, proj_mse, proj_smooth_l1
from kdcache_kernels.reference import dequantize

__all__ = [
    "FeatureLoss",
    "dequantize",
    "layer_norm_affine",
    "proj_cosine",
    "proj_mse",
    "proj_smooth_l1",
    "which",
]
