"""The cosine loss: each token's cosine, and two factors from which all gradients follow.

With c the cosine of p and t, the gradient of 1 - c for p is (c / |p|^2) p - (1 / (|p| |t|)) t: a factor `ca` for the
projected token and a factor `cb` for the target.
"""

import torch
from torch import Tensor

# torch.nn.functional.cosine_similarity's: norms below it count as this.
EPS = 1e-8


def factors_from_products(pp: Tensor, pt: Tensor, tt: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Loss and factors from |p|^2, <p, t> and |t|^2 of each token."""
    p_norm, t_norm = pp.sqrt().clamp_min(EPS), tt.sqrt().clamp_min(EPS)
    cosine = pt / (p_norm * t_norm)
    # A norm below EPS is a constant to autograd, so the term that comes from its derivative is missing there.
    ca = torch.where(pp.sqrt() > EPS, cosine / p_norm.square(), torch.zeros_like(pp))
    cb = -1 / (p_norm * t_norm)
    losses = 1 - cosine
    return (losses, ca, cb) if mask is None else (losses * mask, ca * mask, cb * mask)
