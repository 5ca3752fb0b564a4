"""Sweeps of ranks: a run for each, and the table of what they reach."""

import csv
from pathlib import Path
from typing import Any

import pytest
import timm

from kdcache.errors import ModelError, Remedy, UsageError
from kdcache.methods.low_rank import low_rank
from kdcache.methods.none import none
from kdcache.train.folder import save_weights
from kdcache.train.rank_sweep import RankResult, dense_accuracy, sweep_ranks, write_rank_table
from tests.conftest import STUDENT_KWARGS
from tests.train.support import tiny_run


def sweep_run(weights: Path, **changes: Any) -> Any:
    return tiny_run(
        "eval.data=digits:test", "eval.crop_pct=1", "epochs=1",
        **{"method": low_rank(), "student_weights": str(weights), **changes},
    )  # fmt: skip


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    model = timm.create_model("vit_tiny_patch16_224", img_size=16, num_classes=10, **STUDENT_KWARGS)
    save_weights(tmp_path / "dense.safetensors", model)
    return tmp_path / "dense.safetensors"


@pytest.mark.slow
def test_each_rank_and_seed_is_a_run_that_is_not_run_again(tiny_root: Path, tmp_path: Path, weights: Path) -> None:
    seen: list[tuple[int, int]] = []
    arguments: dict[str, Any] = {"ranks": [2, 4], "seeds": range(2)}
    results = sweep_ranks(
        tiny_root,
        tmp_path / "s",
        sweep_run(weights),
        **arguments,
        on_run=lambda rank, seed, _: seen.append((rank, seed)),
    )
    assert seen == [(2, 0), (2, 1), (4, 0), (4, 1)]
    assert [(each.rank, len(each.accuracies)) for each in results] == [(2, 2), (4, 2)]
    assert results[0].num_parameters < results[1].num_parameters

    def marks() -> dict[Path, int]:
        files = [path for path in (tmp_path / "s").rglob("*") if path.is_file()]
        return {path: path.stat().st_mtime_ns for path in files if path.parent.name != "job"}

    before = marks()
    assert sweep_ranks(tiny_root, tmp_path / "s", sweep_run(weights), **arguments) == results
    assert marks() == before
    assert {path.name for path in (tmp_path / "s").iterdir()} == {
        f"rank-{r:03d}-seed-{s}" for r in (2, 4) for s in (0, 1)
    }


def test_a_rank_that_is_too_large_is_refused_before_the_first_run(
    tiny_root: Path, tmp_path: Path, weights: Path
) -> None:
    with pytest.raises(ModelError, match=r"at rank=300 .*choose a rank below 1"):
        sweep_ranks(tiny_root, tmp_path / "s", sweep_run(weights), ranks=[2, 300], seeds=[0])
    assert not (tmp_path / "s").exists()


def test_the_dense_model_is_evaluated_as_it_is(tiny_root: Path, weights: Path) -> None:
    """At full rank and before the first step, a factored student is that model."""
    assert 0 <= dense_accuracy(tiny_root, sweep_run(weights)) <= 100
    with pytest.raises(UsageError, match="the weights the students begin with, and there are none"):
        dense_accuracy(tiny_root, sweep_run(weights, student_weights="random"))


@pytest.mark.parametrize(("classes", "found"), [(7, "a classifier of 7 classes"), (0, "no classifier")])
def test_a_fresh_classifier_is_not_called_the_teachers(
    tiny_root: Path, tmp_path: Path, classes: int, found: str
) -> None:
    model = timm.create_model("vit_tiny_patch16_224", img_size=16, num_classes=classes, **STUDENT_KWARGS)
    save_weights(tmp_path / "other.safetensors", model)
    with pytest.raises(UsageError, match=f"have {found}, the students have 10 classes") as caught:
        dense_accuracy(tiny_root, sweep_run(tmp_path / "other.safetensors"))
    assert caught.value.remedy is Remedy.GIVE_TEACHER_ACCURACY


def test_the_table_holds_means_and_their_spread(tmp_path: Path) -> None:
    write_rank_table(tmp_path / "ranks.csv", [RankResult(2, (50.0, 60.0), 100), RankResult(4, (80.0,), 200)])
    with (tmp_path / "ranks.csv").open(newline="") as file:
        first, second = csv.DictReader(file)
    assert (float(first["accuracy"]), float(first["sd"])) == (55.0, pytest.approx(50**0.5))
    assert (second["accuracy"], second["sd"], second["num_seeds"], second["num_parameters"]) == ("80.0", "", "1", "200")


@pytest.mark.parametrize(
    ("changes", "arguments", "message"),
    [
        ({"method": none()}, {}, "needs the change low-rank with a rank"),
        ({"method": low_rank(budget=0.2)}, {}, "needs the change low-rank with a rank"),
        ({}, {"ranks": []}, "ranks must be different numbers from 1"),
        ({}, {"ranks": [2, 2]}, "ranks must be different numbers from 1"),
    ],
)
def test_mistakes_are_named(
    tiny_root: Path, tmp_path: Path, weights: Path, changes: dict[str, Any], arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        sweep_ranks(
            tiny_root, tmp_path / "s", sweep_run(weights, **changes), **{"ranks": [2, 4, 8], "seeds": [0], **arguments}
        )


def test_accuracies_need_images(tiny_root: Path, tmp_path: Path, weights: Path) -> None:
    config = tiny_run(method=low_rank(), student_weights=str(weights))
    with pytest.raises(UsageError, match="needs images to evaluate on") as caught:
        sweep_ranks(tiny_root, tmp_path / "s", config, ranks=[2, 4, 8], seeds=[0])
    assert caught.value.remedy is Remedy.GIVE_EVAL_DATA
