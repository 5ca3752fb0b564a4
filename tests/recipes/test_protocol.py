"""The protocol that several papers share."""

import pytest

from kdcache.methods.none import none
from kdcache.recipes.protocol import longer, papers_run


def test_the_rate_follows_the_batch() -> None:
    run = papers_run(none())
    assert run.optimizer.peak_lr(run.batch_size) == pytest.approx(2e-3)
    assert (run.data.views_per_sample, run.data.epoch_of) == (3, "views")
    other = longer(run, 400, batch_size=512, warmup_epochs=20)
    assert other.optimizer.peak_lr(other.batch_size) == pytest.approx(5e-4)
    assert (other.epochs, other.scheduler.warmup_epochs, other.scheduler.step) == (400, 20, "epoch")
