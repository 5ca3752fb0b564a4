"""Feature-distillation losses on stored targets. Needs torch only; imports nothing of kdcache."""

from kdcache_kernels.reference import dequantize, proj_cosine, proj_mse, proj_smooth_l1

__all__ = ["dequantize", "proj_cosine", "proj_mse", "proj_smooth_l1"]
