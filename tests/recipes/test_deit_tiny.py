import pytest

from kdcache.errors import UsageError
from kdcache.recipes import RECIPES, load_recipe
from kdcache.terms.cross_entropy import CrossEntropy
from kdcache.terms.logits import Logits
from kdcache.train.config import RunConfig


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_the_papers(name: str) -> None:
    """METHODS 1.6: 300 epochs, batch 2048, peak 2e-3, weight decay 0.05, smoothing 0.1, EMA 0.99996."""
    run = load_recipe(name)()
    assert isinstance(run, RunConfig)
    assert (run.epochs, run.batch_size, run.ema_decay) == (300, 2048, 0.99996)
    assert run.optimizer.peak_lr(run.batch_size) == pytest.approx(2e-3)
    assert run.optimizer.weight_decay == 0.05
    terms = {type(term): term for term in run.method.terms}
    assert terms[CrossEntropy].label_smoothing == 0.1  # type: ignore[attr-defined]
    assert (run.scheduler.step, run.scheduler.warmup_epochs) == ("epoch", 5)
    assert run.eval.crop_pct == 0.875
    if "cait" in name:
        assert run.teacher == "cait_s24_224"
        assert terms[CrossEntropy].weight == pytest.approx(0.1)
        assert terms[Logits].weight == 0.9
        assert terms[Logits].temperature == 1.0  # type: ignore[attr-defined]
    if "standalone" in name:
        assert list(terms) == [CrossEntropy]
    doc = load_recipe(name).__doc__
    assert doc is not None
    assert f"kdcache train {name} " in doc
    assert "top-1" in doc


def test_unknown_recipes_list_the_known() -> None:
    with pytest.raises(UsageError, match="lift-deit-tiny-cait-s24"):
        load_recipe("lift")
