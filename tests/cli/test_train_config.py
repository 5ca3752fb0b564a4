"""Flags of a run: methods, changes and terms, and what is refused."""

import argparse

import pytest

from kdcache.cli import train
from kdcache.cli.train_config import read_config
from kdcache.errors import UsageError
from kdcache.students.lift import LiftChange
from kdcache.students.low_rank import LowRank
from kdcache.terms.spectral import Spectral
from kdcache.train.config import RunConfig


def config(*words: str) -> RunConfig:
    parser = argparse.ArgumentParser()
    train.add_arguments(parser)
    return read_config(parser.parse_args(["--cache", "c", "--out", "o", *words]))


def test_a_change_goes_with_any_method() -> None:
    run = config("--student", "deit_tiny_patch16_224", "--method", "spectral", "--change", "lift:init=released")
    assert run.method.change == LiftChange(init="released")
    assert isinstance(run.method.terms[-1], Spectral)
    run = config("--student", "s", "--method", "logit", "--change", "low-rank:budget=0.2,search=top")
    assert run.method.change == LowRank(budget=0.2, search="top")


def test_a_recipe_takes_a_change_and_weights() -> None:
    run = config("em-deit-tiny-logit", "--change", "lift", "--student-weights", "hub")
    assert (run.method.change, run.student_weights, run.epochs) == (LiftChange(), "hub", 300)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("wide", "unknown student change 'wide'; did you mean widelast"),
        ("lift:widht=3", "no key 'widht'; did you mean width"),
        ("lift:init=torch", "choose from timm, released"),
        ("low-rank", "give rank or budget, one of them"),
        ("weight-copy:adapters=none,rank=4", "rank=4 would be ignored"),
    ],
)
def test_mistakes_in_a_change_are_usage_errors(change: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        config("--student", "s", "--method", "logit", "--change", change)
