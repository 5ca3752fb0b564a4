"""Proteus (arXiv:2407.10366): a foundation model's tokens alone, without labels or logits."""

from kdcache.methods.base import Method
from kdcache.terms.proteus import Proteus


def proteus(
    *,
    class_weight: float = 1.0,
    all_weight: float = 1.0,
    masked_weight: float = 1.0,
    masked_images: float = 0.5,
    mask_ratio: float = 0.5,
    teacher: tuple[str, ...] = Proteus.teacher,
    student_block: tuple[int, ...] = (),
) -> Method:
    """Class token, all tokens and masked patches, each behind a head; nothing trains the classifier.

    The student is probed or fine-tuned afterwards. For CLIP teachers the paper keeps the class token
    alone: all_weight=0, masked_weight=0.

    Args:
        class_weight, all_weight, masked_weight, masked_images, mask_ratio: As in `Proteus`, published
            values.
        teacher: A prefix tap and a patch tap.
        student_block: As in `TokenTerm`; empty for the last block.
    """
    term = Proteus(
        class_weight=class_weight,
        all_weight=all_weight,
        masked_weight=masked_weight,
        masked_images=masked_images,
        mask_ratio=mask_ratio,
        teacher=teacher,
        student_block=student_block,
    )
    return Method(name="proteus", terms=(term,))
