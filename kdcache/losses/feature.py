"""Losses between student tokens and teacher features of the same width, and channel pooling for when it differs."""

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

FeatureLossName = Literal["mse", "smooth_l1", "l1", "cosine", "normalized_mse", "l1_cosine"]
FEATURE_LOSSES: tuple[str, ...] = get_args(FeatureLossName)


def feature_loss(student_tokens: Tensor, teacher_tokens: Tensor, *, kind: FeatureLossName) -> Tensor:
    """Distance between token features, mean over all elements (mse, smooth_l1, l1) or tokens (cosine), in fp32.

    Args:
        student_tokens: (B, N, C), any float dtype; computed in fp32 (fp64 stays).
        teacher_tokens: (B, N, C), without gradient.
        kind: ``mse``; ``smooth_l1`` (quadratic below 1); ``l1``; ``cosine``, one minus the cosine of each token pair;
            ``normalized_mse``, mse after both tokens were layer-normalised without parameters (eps 1e-5);
            ``l1_cosine``, mean over tokens of their mean absolute difference minus log sigmoid(cosine),
            which is .31 for tokens that are equal.

    Raises: ValueError for different shapes or an unknown kind.
    Source: mse as in arXiv:2511.15572, no normalisation on either side; l1_cosine as in arXiv:2412.16719.
    """
    if student_tokens.shape != teacher_tokens.shape:
        raise ValueError(
            f"student tokens {tuple(student_tokens.shape)} and teacher tokens {tuple(teacher_tokens.shape)} differ"
        )
    student = student_tokens.to(torch.promote_types(student_tokens.dtype, torch.float32))
    teacher = teacher_tokens.to(student.dtype)
    if kind == "mse":
        return F.mse_loss(student, teacher)
    if kind == "smooth_l1":
        return F.smooth_l1_loss(student, teacher)
    if kind == "l1":
        return F.l1_loss(student, teacher)
    if kind == "cosine":
        return (1 - F.cosine_similarity(student, teacher, dim=-1)).mean()
    if kind == "normalized_mse":
        width = student.shape[-1:]
        return F.mse_loss(F.layer_norm(student, width), F.layer_norm(teacher, width))
    if kind == "l1_cosine":
        cosine = F.cosine_similarity(student, teacher, dim=-1)
        return F.l1_loss(student, teacher) - F.logsigmoid(cosine).mean()
    raise ValueError(f"feature loss must be one of {', '.join(FEATURE_LOSSES)}, got {kind!r}")


def pool_channels(tokens: Tensor, num_channels: int) -> Tensor:
    """Average neighbouring channels until `num_channels` are left.

    Args:
        tokens: (B, N, C).
        num_channels: c <= C; output channel i averages channels floor(i C / c) to ceil((i + 1) C / c) - 1.

    Returns: (B, N, c).
    Source: arXiv:2412.19055's code (adaptive average pooling along channels).
    """
    if num_channels == tokens.shape[-1]:
        return tokens
    if num_channels > tokens.shape[-1]:
        raise ValueError(f"cannot pool {tokens.shape[-1]} channels to {num_channels}; pool the wider side")
    return F.adaptive_avg_pool1d(tokens, num_channels)
