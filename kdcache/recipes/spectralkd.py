"""SpectralKD (arXiv:2412.19055): DeiT from CaiT-S24 at eight pairs of blocks, Swin-Tiny from Swin-Small at its stages.

The caches, both with ``--codec int8 --views 3 --view-recipe deit``::

    kdcache extract --data 'imagenet/train-{0000..1023}.tar' --teacher cait_s24_224 --tap head/logits \\
        --tap blocks.0/patch --tap blocks.1/patch --tap blocks.18/patch --tap blocks.19/patch \\
        --tap blocks.20/patch --tap blocks.21/patch --tap blocks.22/patch --tap blocks.23/patch --out C
    kdcache extract --data 'imagenet/train-{0000..1023}.tar' --teacher swin_small_patch4_window7_224 \\
        --tap head/logits --tap blocks.0/patch --tap blocks.1/patch --tap blocks.2/patch --tap blocks.3/patch --out C
"""

from kdcache.methods.spectral import spectral
from kdcache.recipes.protocol import CAIT, DEIT_TINY, PROTOCOL_DIFFERS, longer, papers_run
from kdcache.train.config import RunConfig

DIFFERS = PROTOCOL_DIFFERS
COST = "Cost: 400 or 500 epochs of 1.28 M images; int8 features of eight CaiT blocks take 770 GB for each view."
_STUDENT_BLOCKS = (0, 1, 6, 7, 8, 9, 10, 11)
_TEACHER_TAPS = tuple(f"blocks.{block}/patch" for block in (0, 1, 18, 19, 20, 21, 22, 23))
_STAGES = (0, 1, 2, 3)


def deit_tiny() -> RunConfig:
    """DeiT-Tiny from CaiT-S24. Published top-1 77.4, without distillation 72.2."""
    method = spectral(teacher=_TEACHER_TAPS, student_block=_STUDENT_BLOCKS)
    return longer(papers_run(method, student=DEIT_TINY), 400, batch_size=512)


def deit_small() -> RunConfig:
    """DeiT-Small from CaiT-S24. Published top-1 82.2, without distillation 79.8."""
    method = spectral(teacher=_TEACHER_TAPS, student_block=_STUDENT_BLOCKS)
    return longer(papers_run(method, student="deit_small_patch16_224", teacher=CAIT), 500, batch_size=512)


def swin_tiny() -> RunConfig:
    """Swin-Tiny from Swin-Small, stage by stage. Published top-1 82.7, without distillation 81.3."""
    taps = tuple(f"blocks.{stage}/patch" for stage in _STAGES)
    method = spectral(teacher=taps, student_block=_STAGES, feature_weight=0.05)
    run = papers_run(method, student="swin_tiny_patch4_window7_224", teacher="swin_small_patch4_window7_224")
    return longer(run, 500, batch_size=512, warmup_epochs=20)
