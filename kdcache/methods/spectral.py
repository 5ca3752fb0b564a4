"""SpectralKD (arXiv:2412.19055): spectra of the student's token maps against a teacher's."""

from kdcache.methods.base import Method
from kdcache.methods.logit import label_terms
from kdcache.terms.spectral import Spectral


def spectral(
    *,
    logit_weight: float = 0.9,
    temperature: float = 1.0,
    label_smoothing: float = 0.1,
    feature_weight: float = 0.2,
    teacher: tuple[str, ...] = (),
    student_block: tuple[int, ...] = (),
) -> Method:
    """Labels, logits and the spectral term; nothing is trained beside the student.

    The paper pairs blocks 0 1 6 7 8 9 10 11 of DeiT with 0 1 18 19 20 21 22 23 of CaiT-S24, and the
    four stages of Swin-Tiny with those of Swin-Small at feature_weight .05.

    Args:
        logit_weight, temperature, label_smoothing: As in `label_terms`.
        feature_weight: Weight of the spectral term; at 0 no features are needed.
        teacher, student_block: As in `TokenTerm`; empty for the last blocks of both.
    """
    term = Spectral(weight=feature_weight, teacher=teacher, student_block=student_block)
    return Method(name="spectral", terms=(*label_terms(logit_weight, temperature, label_smoothing), term))
