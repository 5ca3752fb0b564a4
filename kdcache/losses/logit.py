"""Losses on class logits: cross-entropy with label smoothing, and distillation from dense or top-k teacher logits."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def cross_entropy(student_logits: Tensor, labels: Tensor, *, label_smoothing: float) -> Tensor:
    """Cross-entropy on hard labels, mean over the batch.

    Args:
        student_logits: (B, K), any float dtype; computed in fp32.
        labels: (B,) int64 class indices.
        label_smoothing: Fraction of the probability spread over all classes, 0 to 1.
    """
    return F.cross_entropy(student_logits.float(), labels, label_smoothing=label_smoothing)


def logit_kd(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float) -> Tensor:
    """KL(teacher || student) between softened class distributions, mean over the batch.

    Args:
        student_logits: (B, K), any float dtype; computed in fp32.
        teacher_logits: (B, K), without gradient.
        temperature: T > 0, no unit; the result is scaled by T**2.

    Returns: scalar fp32, in nats.
    Raises: ValueError if the shapes differ or temperature <= 0.
    Source: arXiv:1503.02531, section 2.
    """
    if temperature <= 0:
        raise ValueError(f"temperature must be > 0, got {temperature}")
    if student_logits.shape != teacher_logits.shape:
        raise ValueError(
            f"student logits {tuple(student_logits.shape)} and teacher logits {tuple(teacher_logits.shape)} differ; "
            "the student needs the teacher's number of classes"
        )
    student = F.log_softmax(student_logits.float() / temperature, dim=-1)
    teacher = F.log_softmax(teacher_logits.float() / temperature, dim=-1)
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2


def top_k_logit_kd(student_logits: Tensor, index: Tensor, values: Tensor, other: Tensor) -> Tensor:
    """KL(teacher || student) over the k stored classes and one event "any other class", mean over the batch.

    A lower bound of the KL over all classes, exact for k = K. The remaining mass is only known at temperature 1.

    Args:
        student_logits: (B, K), any float dtype; computed in fp32.
        index: (B, k) stored classes.
        values: (B, k) their logits.
        other: (B,) log of the mean exponential of the K - k other teacher logits; unused for k = K.

    Returns: scalar fp32, in nats.
    """
    log_student = F.log_softmax(student_logits.float(), dim=-1)
    kept_student = log_student.gather(1, index.long())
    num_others = student_logits.shape[1] - index.shape[1]
    # As an event, the others have the log of their summed exponentials.
    event = other.float() + math.log(num_others) if num_others else torch.full_like(other, -math.inf)
    log_teacher = F.log_softmax(torch.cat([values.float(), event.unsqueeze(1)], dim=1), dim=1)
    loss = (log_teacher[:, :-1].exp() * (log_teacher[:, :-1] - kept_student)).sum(dim=1)
    if num_others:
        # log(1 - sum of kept probabilities), from the others themselves so that nothing cancels.
        others = log_student.scatter(1, index.long(), float("-inf")).logsumexp(dim=1)
        loss = loss + log_teacher[:, -1].exp() * (log_teacher[:, -1] - others)
    return loss.mean()
