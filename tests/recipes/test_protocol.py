"""The protocol that several papers share."""

import pytest
from torch import nn

from kdcache.methods.none import none
from kdcache.recipes.protocol import longer, papers_run
from kdcache.train.optimizer import LearningRate, make_optimizer


def test_the_rate_follows_the_batch() -> None:
    run = papers_run(none())
    assert run.optimizer.peak_lr(run.batch_size) == pytest.approx(2e-3)
    assert (run.data.views_per_sample, run.data.epoch_of) == (3, "views")
    other = longer(run, 400, batch_size=512, warmup_epochs=20)
    assert other.optimizer.peak_lr(other.batch_size) == pytest.approx(5e-4)
    assert (other.epochs, other.scheduler.warmup_epochs, other.scheduler.step) == (400, 20, "epoch")


@pytest.mark.parametrize(("epochs", "batch_size", "peak"), [(300, 2048, 2e-3), (400, 512, 5e-4), (500, 512, 5e-4)])
def test_the_rate_begins_and_ends_where_the_papers_does(epochs: int, batch_size: int, peak: float) -> None:
    """1e-6 and 1e-5 at whatever peak, as their code's options are absolute."""
    run = longer(papers_run(none()), epochs, batch_size=batch_size)
    optimizer = make_optimizer(nn.Linear(1, 1), run.optimizer, batch_size=run.batch_size)
    rate = LearningRate(optimizer, run.scheduler, epochs=epochs, steps_per_epoch=1)
    rates = [rate.set(step) for step in range(epochs + 1)]
    assert rates[:2] == pytest.approx([1e-6, 1e-6])
    assert max(rates) == pytest.approx(peak, rel=2e-3)
    assert rates[-1] == pytest.approx(1e-5, rel=0.01)
