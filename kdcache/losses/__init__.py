"""Distillation losses as plain functions of tensors."""

from kdcache.losses.feature import feature_loss, pool_channels
from kdcache.losses.logit import cross_entropy, logit_kd, top_k_logit_kd

__all__ = ["cross_entropy", "feature_loss", "logit_kd", "pool_channels", "top_k_logit_kd"]
