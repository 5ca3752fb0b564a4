"""Runs of arXiv:2511.06848."""

import pytest

from kdcache.recipes import load_recipe
from kdcache.terms.projector import Projector
from kdcache.terms.spectral import Spectral


@pytest.mark.parametrize(
    ("name", "student", "teacher"),
    [
        ("dd-spectral-first", (0,), ("blocks.0/patch",)),
        ("dd-spectral-last", (-1,), ("blocks.-1/patch",)),
        ("dd-spectral-first-last", (0, -1), ("blocks.0/patch", "blocks.-1/patch")),
        ("dd-spectral-last-8", tuple(range(-8, 0)), tuple(f"blocks.{block}/patch" for block in range(-8, 0))),
    ],
)
def test_pairs_of_blocks(name: str, student: tuple[int, ...], teacher: tuple[str, ...]) -> None:
    term = load_recipe(name)().method.terms[-1]
    assert term == Spectral(weight=0.2, student_block=student, teacher=teacher)


def test_the_released_projector_is_never_trained() -> None:
    for name, released in (("dd-projector-last", True), ("dd-projector-last-trained", False)):
        term = load_recipe(name)().method.terms[-1]
        assert isinstance(term, Projector)
        assert (term.released, term.weight) == (released, 0.2)


def test_longer_runs_and_milestones() -> None:
    for name, epochs in (("dd-logit-300", 300), ("dd-logit-500", 500), ("dd-spectral-last-500", 500)):
        run = load_recipe(name)()
        assert (run.epochs, run.batch_size, run.scheduler.warmup_epochs) == (epochs, 2048, 5)
        assert run.checkpoint.milestone_every == 30
