"""The one door to kdcache_kernels: fused operations on targets as the cache stores them."""

from kdcache_kernels import dequantize, proj_cosine, proj_mse, proj_smooth_l1

__all__ = ["dequantize", "proj_cosine", "proj_mse", "proj_smooth_l1"]
