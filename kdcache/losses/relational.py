"""Similarities between tokens: losses on those of one image, and linear CKA, for any two widths."""

import torch
import torch.nn.functional as F
from torch import Tensor


def token_similarities(tokens: Tensor) -> Tensor:
    """Compute the cosine of every pair of an image's tokens.

    Args:
        tokens: (B, N, C), any float dtype; computed in fp32 (fp64 stays), under autocast too.

    Returns: (B, N, N). A token of zeros has cosine 0 with every token.
    """
    with torch.autocast(tokens.device.type, enabled=False):
        unit = F.normalize(tokens.to(torch.promote_types(tokens.dtype, torch.float32)), dim=-1)
        return unit @ unit.transpose(1, 2)


def gram_loss(student_tokens: Tensor, teacher_tokens: Tensor) -> Tensor:
    """Compare the cosine matrices of student and teacher: mean squared difference over all entries.

    Args:
        student_tokens: (B, N, C_s), any float dtype.
        teacher_tokens: (B, N, C_t), without gradient.

    Returns: scalar, between 0 and 4.
    Raises: ValueError for another number of images or tokens.
    Source: arXiv:2508.10104 (DINOv3), Gram anchoring; there a sum over the matrix, here its mean.
    """
    _check(student_tokens, teacher_tokens)
    return F.mse_loss(token_similarities(student_tokens), token_similarities(teacher_tokens))


def token_similarity_kd(student_tokens: Tensor, teacher_tokens: Tensor, *, temperature: float) -> Tensor:
    """KL(teacher || student) of tokens' distributions over their image's tokens, mean over tokens.

    A token's distribution is the softmax of its cosines with all tokens, itself included, divided
    by the temperature.

    Args:
        student_tokens: (B, N, C_s), any float dtype.
        teacher_tokens: (B, N, C_t), without gradient.
        temperature: T > 0, no unit; the result is not scaled by T.

    Returns: scalar, in nats.
    Raises: ValueError for another number of images or tokens, or temperature <= 0.
    Source: LightlyTrain, the local part of its method distillationv3.
    """
    _check(student_tokens, teacher_tokens)
    if temperature <= 0:
        raise ValueError(f"temperature must be > 0, got {temperature}")
    student = F.log_softmax(token_similarities(student_tokens) / temperature, dim=-1)
    teacher = F.log_softmax(token_similarities(teacher_tokens) / temperature, dim=-1)
    return F.kl_div(student.flatten(0, 1), teacher.flatten(0, 1), reduction="batchmean", log_target=True)


def linear_cka(student_tokens: Tensor, teacher_tokens: Tensor) -> Tensor:
    """Measure how alike two sets of features are up to rotation, offset and one scale: linear CKA.

    ‖XᵀY‖² / (‖XᵀX‖ ‖YᵀY‖) of the centred tokens of all images, Frobenius norms. It is no mean over
    images: parts of a batch do not average to the batch.

    Args:
        student_tokens: (B, N, C_s), any float dtype; computed in fp32 (fp64 stays), under autocast too.
        teacher_tokens: (B, N, C_t).

    Returns: scalar, 0 to 1; 0 where all tokens of a side are the same.
    Raises: ValueError for another number of images or tokens.
    Source: arXiv:1905.00414.
    """
    _check(student_tokens, teacher_tokens)
    dtype = torch.promote_types(student_tokens.dtype, torch.float32)
    with torch.autocast(student_tokens.device.type, enabled=False):
        one, other = (tokens.to(dtype).flatten(0, 1) for tokens in (student_tokens, teacher_tokens))
        one, other = one - one.mean(0), other - other.mean(0)
        norms = torch.linalg.matrix_norm(one.T @ one) * torch.linalg.matrix_norm(other.T @ other)
        return torch.linalg.matrix_norm(one.T @ other) ** 2 / norms.clamp_min(torch.finfo(dtype).tiny)


def _check(student_tokens: Tensor, teacher_tokens: Tensor) -> None:
    if student_tokens.shape[:2] != teacher_tokens.shape[:2]:
        raise ValueError(
            f"student tokens {tuple(student_tokens.shape)} and teacher tokens {tuple(teacher_tokens.shape)} differ in "
            "images or tokens; resize one of the grids"
        )
