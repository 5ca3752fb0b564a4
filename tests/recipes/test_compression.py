"""Compressed teachers."""

from kdcache.recipes import load_recipe
from kdcache.students.low_rank import LowRank
from kdcache.students.weight_copy import WeightCopy


def test_wecolora_is_the_papers() -> None:
    """Ten epochs, two of warm-up, 1e-3 * 1024 / 256, betas .9 and .95, no label."""
    run = load_recipe("wecolora-vit-base")()
    assert run.method.change == WeightCopy(every=2, rank=128, adapters="enhanced")
    assert run.optimizer.peak_lr(run.batch_size) == 1e-3 * 1024 / 256
    assert (run.epochs, run.scheduler.warmup_epochs, run.optimizer.betas) == (10, 2, (0.9, 0.95))
    assert not run.method.needs_labels


def test_one_rank_of_a_sweep() -> None:
    assert load_recipe("low-rank-vit-base")().method.change == LowRank(rank=32)
