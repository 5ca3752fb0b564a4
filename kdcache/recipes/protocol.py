"""The protocol that the papers of CaiT-S24 and DeiT share: schedule, optimizer, evaluation."""

from dataclasses import replace

from kdcache.methods.base import Method
from kdcache.train.config import DataConfig, EvalConfig, RunConfig
from kdcache.train.optimizer import SchedulerConfig

CAIT = "cait_s24_224"
DEIT_TINY = "deit_tiny_patch16_224"
# The rates at which these papers begin and end, whatever their peak.
_FIRST_LR, _LAST_LR = 1e-6, 1e-5
PROTOCOL_DIFFERS = (
    "Published with new views in every epoch; a cache holds a fixed number for each image, three at least (with "
    "RandAugment and random erasing as published where it was extracted with the view recipe deit). Published with "
    "fp16 and a scaled loss; here bf16 on a GPU, unless precision is set to fp16."
)


def papers_run(method: Method, *, student: str = DEIT_TINY, teacher: str | None = CAIT) -> RunConfig:
    """300 epochs at a global batch of 2048: AdamW, peak 2e-3, weight decay .05, five epochs of warm-up.

    No mixup and no drop-path. Averaged weights are kept and never evaluated; the rate moves once an epoch; evaluation
    resizes to 256 and crops 224.

    Args:
        method: What is learned, with label smoothing .1.
        student: timm name.
        teacher: The teacher that the cache must hold; None for a method that reads none.
    """
    return RunConfig(
        student=student,
        method=method,
        teacher=teacher,
        epochs=300,
        batch_size=2048,
        ema_decay=0.99996,
        log_every=50,
        scheduler=SchedulerConfig(warmup_epochs=5, step="epoch"),
        # Repeated augmentation: three views of a third of the images in each epoch.
        data=DataConfig(views_per_sample=3, epoch_of="views"),
        eval=EvalConfig(crop_pct=0.875),
    )


def longer(run: RunConfig, epochs: int, *, batch_size: int = 2048, warmup_epochs: int = 5) -> RunConfig:
    """The same protocol over other epochs and another global batch: the peak follows the batch, the ends stay put."""
    peak = run.optimizer.peak_lr(batch_size)
    scheduler = replace(
        run.scheduler,
        warmup_epochs=warmup_epochs,
        warmup_lr_ratio=_FIRST_LR / peak,
        min_lr_ratio=_LAST_LR / peak,
    )
    return replace(run, epochs=epochs, batch_size=batch_size, scheduler=scheduler)
