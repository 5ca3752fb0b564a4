"""The one door to kdcache_kernels: fused operations on targets as the cache stores them."""

from kdcache_kernels import FeatureLoss

__all__ = ["FeatureLoss"]
