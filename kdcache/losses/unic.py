"""UNIC's distance between tokens, image by image, and its dropping of matched teachers."""

import torch
import torch.nn.functional as F
from torch import Tensor


def cosine_smooth_l1(student_tokens: Tensor, teacher_tokens: Tensor) -> Tensor:
    """Average half of (1 - cosine) and half of the smooth L1 distance over each image's tokens.

    Args:
        student_tokens: (B, N, C), any float dtype; computed in fp32 (fp64 stays).
        teacher_tokens: (B, N, C), without gradient.

    Returns: (B,).
    Raises: ValueError for different shapes.
    Source: arXiv:2408.05088 (UNIC); smooth L1 is quadratic below 1.
    """
    if student_tokens.shape != teacher_tokens.shape:
        raise ValueError(
            f"student tokens {tuple(student_tokens.shape)} and teacher tokens {tuple(teacher_tokens.shape)} differ"
        )
    student = student_tokens.to(torch.promote_types(student_tokens.dtype, torch.float32))
    teacher = teacher_tokens.to(student.dtype)
    cosine = F.cosine_similarity(student, teacher, dim=-1)
    distance = F.smooth_l1_loss(student, teacher, reduction="none").mean(-1)
    return ((1 - cosine + distance) / 2).mean(1)


def drop_teachers(losses: Tensor, *, probability: float) -> Tensor:
    """Average the losses of several teachers, without some of those already matched well.

    For each image the teacher of the highest loss is kept, and every other one is dropped with this
    probability. The image's loss is the mean over the teachers kept, so that all images weigh the
    same.

    Args:
        losses: (B, T), one for each image and teacher.
        probability: 0 to 1; at 0, and for one teacher, nothing is drawn from torch's random state.

    Returns: scalar, mean over the batch.
    Source: arXiv:2408.05088, section 3; its code divides by the teachers kept in the whole batch
        instead.
    """
    if probability == 0 or losses.shape[1] == 1:
        return losses.mean()
    kept = torch.rand(losses.shape, device=losses.device) >= probability
    kept = kept.scatter(1, losses.detach().argmax(1, keepdim=True), True)
    return (torch.where(kept, losses, 0).sum(1) / kept.sum(1)).mean()
