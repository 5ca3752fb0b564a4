"""Flags of a run: methods, changes and terms, and what is refused."""

import argparse
import json
from pathlib import Path

import pytest

from kdcache.cli import train
from kdcache.cli.main import main
from kdcache.cli.train_config import read_config, without_logits
from kdcache.errors import UsageError
from kdcache.students.lift import LiftChange
from kdcache.students.low_rank import LowRank
from kdcache.teacher.extract import extract
from kdcache.terms.spectral import Spectral
from kdcache.train.config import RunConfig
from tests.cli.advice.world import train_words
from tests.conftest import TEACHER, TEACHER_KWARGS, tiny_extract


def parsed(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    train.add_arguments(parser)
    return parser.parse_args(["--out", "o", *words])


def config(*words: str) -> RunConfig:
    return read_config(parsed("--cache", "c", *words))


def test_a_change_goes_with_any_method() -> None:
    run = config("--student", "deit_tiny_patch16_224", "--method", "spectral", "--change", "lift:init=released")
    assert run.method.change == LiftChange(init="released")
    assert isinstance(run.method.terms[-1], Spectral)
    run = config("--student", "s", "--method", "logit", "--change", "low-rank:budget=0.2,search=top")
    assert run.method.change == LowRank(budget=0.2, search="top")


@pytest.fixture(scope="module")
def headless_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache of a teacher without a classifier: labels and patch tokens."""
    root = tmp_path_factory.mktemp("headless") / "c"
    kwargs = {**TEACHER_KWARGS, "num_classes": 0}
    extract(tiny_extract(root, taps=("blocks.-1/patch",), teacher_kwargs=kwargs, limit=8))
    return root


@pytest.mark.parametrize("method", ["lift", "feature", "spectral", "lift:feature_weight=0.5"])
def test_without_logits_a_method_trains_on_labels_and_features(
    headless_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], method: str
) -> None:
    """DINOv2 has no classifier, and its patch tokens are what people distil."""
    assert main(train_words(headless_root, tmp_path / "r", method=method)) == 0
    assert f"no logits: method {method.partition(':')[0]} trains on labels and features" in capsys.readouterr().err
    terms = json.loads((tmp_path / "r" / "config.json").read_text())["config"]["method"]["terms"]
    assert {term["name"]: term["weight"] for term in terms if term["name"] != "spectral"} | {"tokens": 0} == {
        "cross-entropy": 1.0, "logits": 0.0, "tokens": 0,
    }  # fmt: skip
    assert main(train_words(headless_root, tmp_path / "r", method=method)) == 0


@pytest.mark.parametrize(
    "words",
    [
        ("--method", "lift:logit_weight=0.9"),
        ("--method", "lift:temperature=2"),
        ("--method", "lift", "--term", "logits:weight=0.5"),
        ("--method", "logit"),
        ("--method", "low-rank:budget=0.5"),
    ],
    ids=" ".join,
)
def test_logits_that_are_asked_for_are_not_left_out(headless_root: Path, words: tuple[str, ...]) -> None:
    arguments = parsed("--cache", str(headless_root), "--student", TEACHER, *words)
    given = read_config(arguments)
    assert without_logits(arguments, given) == (given, "")


def test_a_cache_with_logits_changes_no_method(tiny_root: Path) -> None:
    arguments = parsed("--cache", str(tiny_root), "--student", TEACHER, "--method", "lift")
    given = read_config(arguments)
    assert without_logits(arguments, given) == (given, "")


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


@pytest.mark.parametrize(
    ("method", "change"),
    [
        ("low-rank:budget=0.3,search=top", LowRank(budget=0.3, search="top")),
        (
            "lillama:budget=0.2,search=top,min_rank=8,rank_step=2",
            LowRank(budget=0.2, search="top", min_rank=8, rank_step=2),
        ),
        ("low-rank:budget=0.3,rank=none", LowRank(budget=0.3)),
        ("lillama:rank=8,budget=none", LowRank(rank=8)),
        # What the method chooses by itself may be given.
        ("low-rank:rank=32", LowRank(rank=32)),
        ("lillama:budget=0.2", LowRank(budget=0.2)),
    ],
)
def test_settings_that_need_one_another_or_are_the_methods_own_are_taken(method: str, change: LowRank) -> None:
    assert config("--student", "s", "--method", method).method.change == change


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["lift:feature_weight=0,loss=cosine"], "^--method lift:.*: loss would be ignored: its term has weight 0$"),
        (
            ["lift:init=released,width=256", "--change", "widelast"],
            "^--method lift:init=released,width=256: init, width would be ignored: --change widelast replaces the "
            "change they belong to; give them to --change$",
        ),
        # What is the default of one change need not be that of the other.
        (["wecolora:rank=128", "--change", "low-rank:rank=8"], "rank would be ignored: --change"),
    ],
)
def test_settings_of_a_method_that_change_nothing_are_refused(words: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        config("--student", "s", "--method", *words)
