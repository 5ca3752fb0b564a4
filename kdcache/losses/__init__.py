"""Distillation losses as plain functions of tensors."""

from kdcache.losses.feature import feature_loss, pool_channels
from kdcache.losses.logit import cross_entropy, logit_kd, top_k_logit_kd
from kdcache.losses.relational import gram_loss, linear_cka, token_similarities, token_similarity_kd
from kdcache.losses.unic import cosine_smooth_l1, drop_teachers

__all__ = [
    "cosine_smooth_l1",
    "cross_entropy",
    "drop_teachers",
    "feature_loss",
    "gram_loss",
    "linear_cka",
    "logit_kd",
    "pool_channels",
    "token_similarities",
    "token_similarity_kd",
    "top_k_logit_kd",
]
