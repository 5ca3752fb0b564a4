"""Runs of arXiv:2412.19055."""

import pytest

from kdcache.recipes import load_recipe


@pytest.mark.parametrize(
    ("name", "weight", "epochs", "warmup", "pairs"),
    [("sk-deit-tiny", 0.2, 400, 5, 8), ("sk-deit-small", 0.2, 500, 5, 8), ("sk-swin-tiny", 0.05, 500, 20, 4)],
)
def test_the_papers_settings(name: str, weight: float, epochs: int, warmup: int, pairs: int) -> None:
    run = load_recipe(name)()
    term = run.method.terms[-1]
    assert (term.name, term.weight) == ("spectral", weight)
    assert len(term.needs().teacher) == len(term.needs().student) == pairs
    assert (run.epochs, run.scheduler.warmup_epochs, run.batch_size) == (epochs, warmup, 512)
    assert run.optimizer.peak_lr(run.batch_size) == pytest.approx(5e-4)
