import pytest

from kdcache.models import count_parameters
from kdcache.recipes import RECIPES, load_recipe
from kdcache.students.student import StudentSpec, build_student
from kdcache.terms.cross_entropy import CrossEntropy
from kdcache.terms.logits import Logits
from kdcache.terms.spectral import Spectral
from kdcache.terms.tokens import Tokens
from kdcache.train.config import RunConfig


@pytest.mark.parametrize("name", [name for name in RECIPES if name.startswith("em-")])
def test_recipes_are_the_papers(name: str) -> None:
    """300 epochs, batch 2048, peak 2e-3, weight decay 0.05, smoothing 0.1, EMA 0.99996."""
    run = load_recipe(name)()
    assert isinstance(run, RunConfig)
    assert (run.epochs, run.batch_size, run.ema_decay) == (300, 2048, 0.99996)
    assert run.optimizer.peak_lr(run.batch_size) == pytest.approx(2e-3)
    assert run.optimizer.weight_decay == 0.05
    terms = {type(term): term for term in run.method.active}
    cross_entropy = terms[CrossEntropy]
    assert isinstance(cross_entropy, CrossEntropy)
    assert cross_entropy.label_smoothing == 0.1
    assert (run.scheduler.step, run.scheduler.warmup_epochs) == ("epoch", 5)
    assert run.eval.crop_pct == 0.875
    with_logits = "logit" in name
    assert cross_entropy.weight == pytest.approx(0.1 if with_logits else 1.0)
    assert (Logits in terms) == with_logits
    if with_logits:
        assert terms[Logits] == Logits(weight=0.9, temperature=1.0)
    assert (Spectral in terms) == ("spectral" in name)
    assert (Tokens in terms) == ("mse" in name)
    for kind in (Spectral, Tokens):
        assert kind not in terms or terms[kind].weight == 0.2
    assert run.method.change.name == {"lift": "lift", "widelast": "widelast"}.get(name.split("-")[1], "none")
    assert getattr(run.method.change, "init", "released") == "released"
    if "none" in name:
        assert run.teacher is None
    elif "deit" not in name.removeprefix("em-deit-tiny"):
        assert run.teacher == "cait_s24_224"


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("em-deit-tiny-none", 5_717_416),
        ("em-lift-none", 5_983_528),
        ("em-lift-none-256", 5_830_696),
        ("em-widelast-none", 7_313_896),
        ("em-uniform-219-none", 7_372_759),
    ],
)
def test_students_have_the_papers_size(name: str, parameters: int) -> None:
    run = load_recipe(name)()
    spec = StudentSpec(
        name=run.student, kwargs=run.student_kwargs, num_classes=1000, image_size=224, change=run.method.change
    )
    assert count_parameters(build_student(spec)) == parameters
