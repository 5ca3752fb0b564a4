"""DeiT-Tiny from CaiT-S24 on ImageNet-1K, as arXiv:2511.06848 trains it; single seeds, so gaps below .2 say little.

The cache for all of them (the projector runs and the last eight pairs need further blocks: add their taps)::

    kdcache extract --data 'imagenet/train-{0000..1023}.tar' --teacher cait_s24_224 --tap blocks.0/patch \\
        --tap blocks.-1/patch --tap head/logits --codec int8 --views 3 --view-recipe deit --out caches/inet
"""

from dataclasses import replace

from kdcache.methods.base import Method
from kdcache.methods.logit import label_terms, logit
from kdcache.methods.spectral import spectral
from kdcache.recipes.protocol import PROTOCOL_DIFFERS, longer, papers_run
from kdcache.terms.projector import Projector
from kdcache.train.config import CheckpointConfig, RunConfig

DIFFERS = PROTOCOL_DIFFERS
COST = "Cost: 300 epochs of 1.28 M images (500 where said); int8 features take 96 GB for each view and block."
_FIRST, _LAST = "blocks.0/patch", "blocks.-1/patch"
_LAST_EIGHT = range(-8, 0)
_LABELS = (0.9, 1.0, 0.1)  # weight of the logits, temperature, label smoothing


def _watched(run: RunConfig) -> RunConfig:
    """With the student's weights of every 30th epoch, for the paper's training dynamics."""
    return replace(run, checkpoint=CheckpointConfig(milestone_every=30))


def _spectral(teacher: tuple[str, ...], student: tuple[int, ...], weight: float = 0.2) -> RunConfig:
    return _watched(papers_run(spectral(teacher=teacher, student_block=student, feature_weight=weight)))


def _projector(teacher: tuple[str, ...], student: tuple[int, ...], *, released: bool) -> RunConfig:
    term = Projector(teacher=teacher, student_block=student, released=released)
    return _watched(papers_run(Method(name="projector", terms=(*label_terms(*_LABELS), term))))


def logit_300() -> RunConfig:
    """Logits alone. Published top-1 76.99."""
    return _watched(papers_run(logit()))


def logit_500() -> RunConfig:
    """Logits alone, 500 epochs. Published top-1 78.07."""
    return longer(logit_300(), 500)


def spectral_first() -> RunConfig:
    """SpectralKD between the first blocks. Published top-1 77.00."""
    return _spectral((_FIRST,), (0,))


def spectral_last() -> RunConfig:
    """SpectralKD between the last blocks. Published top-1 76.83."""
    return _spectral((_LAST,), (-1,))


def spectral_last_500() -> RunConfig:
    """SpectralKD between the last blocks, 500 epochs. Published top-1 77.59."""
    return longer(spectral_last(), 500)


def spectral_last_half() -> RunConfig:
    """SpectralKD between the last blocks at weight .1. Published top-1 76.48."""
    return _spectral((_LAST,), (-1,), weight=0.1)


def spectral_first_last() -> RunConfig:
    """SpectralKD between the first and the last blocks. Published top-1 77.08."""
    return _spectral((_FIRST, _LAST), (0, -1))


def spectral_last_8() -> RunConfig:
    """SpectralKD between the last eight blocks. Published top-1 76.69."""
    return _spectral(tuple(f"blocks.{block}/patch" for block in _LAST_EIGHT), tuple(_LAST_EIGHT))


def projector_first() -> RunConfig:
    """ProjectorKD on the first blocks, its projector never trained, as released. Published top-1 76.87."""
    return _projector((_FIRST,), (0,), released=True)


def projector_last() -> RunConfig:
    """ProjectorKD on the last blocks, its projector never trained, as released. Published top-1 76.72."""
    return _projector((_LAST,), (-1,), released=True)


def projector_first_last() -> RunConfig:
    """ProjectorKD on the first and last blocks, its projector never trained, as released. Published top-1 76.80."""
    return _projector((_FIRST, _LAST), (0, -1), released=True)


def projector_last_trained() -> RunConfig:
    """ProjectorKD on the last blocks with a projector that is trained. No figure was published."""
    return _projector((_LAST,), (-1,), released=False)


def logit_vit_large() -> RunConfig:
    """Logits of ViT-Large alone. Published top-1 76.85."""
    return replace(logit_300(), teacher="vit_large_patch16_224.augreg_in21k_ft_in1k")


def spectral_last_vit_large() -> RunConfig:
    """SpectralKD between the last blocks, ViT-Large as the teacher. Published top-1 76.58."""
    return replace(spectral_last(), teacher="vit_large_patch16_224.augreg_in21k_ft_in1k")
