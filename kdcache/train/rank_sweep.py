"""Train one student for each rank and write their accuracies as the table that an effective rank is read from."""

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch

from kdcache.cache.cache import open_cache
from kdcache.distributed.env import worker_env
from kdcache.distributed.process_group import choose_device, process_group
from kdcache.durable import write_file
from kdcache.errors import Remedy, UsageError
from kdcache.models import create_timm_model, num_trained_classes
from kdcache.remote import Location
from kdcache.students.change import Unchanged
from kdcache.students.low_rank import LowRank
from kdcache.train.config import RunConfig
from kdcache.train.evaluate import evaluate, open_for_student
from kdcache.train.loop import train
from kdcache.train.setup import prepare

OnRun = Callable[[int, int, dict[str, Any]], None]


@dataclass(frozen=True)
class RankResult:
    """Accuracies of the students of one rank.

    Args:
        rank: r of every factored layer.
        accuracies: Top-1 of the last epoch in percent, one a seed.
        num_parameters: Of the student.
    """

    rank: int
    accuracies: tuple[float, ...]
    num_parameters: int


def sweep_ranks(
    cache_folder: Location,
    folder: Path,
    config: RunConfig,
    *,
    ranks: Sequence[int],
    seeds: Sequence[int],
    accept_versions: bool = False,
    on_run: OnRun = lambda rank, seed, summary: None,
    on_event: Callable[[str, dict[str, Any]], None] = lambda kind, values: None,
) -> list[RankResult]:
    """Train a student for each rank and seed, or resume those that are not finished.

    Args:
        cache_folder: A finished cache, here or on object storage.
        folder: Gets a run folder for each, ``rank-008-seed-0``.
        config: The run; its method's change is `LowRank` at any rank, and it has evaluation data.
        ranks: Different ones, at least 1.
        seeds: Of weights, order and dropout.
        accept_versions: As in `train`.
        on_run: Called with rank, seed and summary after each.
        on_event: As in `train`.

    Raises: UsageError for a configuration that gives no accuracies of ranks; any error of `train`.
    """
    change = check_sweep(config, ranks)
    results: list[RankResult] = []
    for rank in ranks:
        method = replace(config.method, change=replace(change, rank=rank))
        summaries: list[dict[str, Any]] = []
        for seed in seeds:
            run = folder / f"rank-{rank:03d}-seed-{seed}"
            one = replace(config, method=method, seed=seed)
            summaries.append(train(cache_folder, run, one, accept_versions=accept_versions, on_event=on_event))
            on_run(rank, seed, summaries[-1])
        accuracies = tuple(summary["top1"] for summary in summaries)
        results.append(RankResult(rank, accuracies, summaries[0]["num_parameters"]))
    return results


def check_sweep(config: RunConfig, ranks: Sequence[int]) -> LowRank:
    """Check that a run can be swept, and return the change whose rank is.

    Raises: UsageError for a configuration that gives no accuracies of ranks, or ranks that repeat or are below 1;
        ModelError for a rank at which no layer of the student is factored.
    """
    change = config.method.change
    if not isinstance(change, LowRank) or change.budget is not None:
        raise UsageError(f"a sweep of ranks needs the change low-rank with a rank, the method has {change}")
    if config.online:
        raise UsageError(
            "a sweep of ranks trains from cached outputs, online teachers would be slower only: leave out online"
        )
    if config.eval.data is None:
        raise UsageError("a sweep of ranks needs images to evaluate on", remedy=Remedy.GIVE_EVAL_DATA)
    if not ranks or len(set(ranks)) != len(ranks) or min(ranks) < 1:
        raise UsageError(f"ranks must be different numbers from 1, got {list(ranks)}")
    # Sizes of layers are known without their weights: a rank that no run can have costs no runs before it.
    with torch.device("meta"):
        model = create_timm_model(config.student, kwargs=config.student_kwargs)
    for rank in ranks:
        replace(change, rank=rank).ranks(model)
    return change


def dense_accuracy(cache_folder: Location, config: RunConfig) -> float:
    """Evaluate the model that the students begin with, dense and not trained further, in their view: top-1 in percent.

    Raises: UsageError where the run names no weights, or weights that classify other classes; ModelError, SourceError.
    """
    weights = config.student_weights
    if weights is None or weights == "random":
        raise UsageError(
            "the teacher's accuracy is that of the weights the students begin with, and there are none",
            remedy=Remedy.GIVE_TEACHER_ACCURACY,
        )
    assert config.eval.data is not None, "a sweep has evaluation data"
    cache, env = open_cache(cache_folder), worker_env()
    device = choose_device(config.device, env)
    setup = prepare(replace(config, method=replace(config.method, change=Unchanged())), cache)
    found = num_trained_classes(setup.step.student.model, weights)
    if found != setup.spec.num_classes:
        # A fresh classifier would be at chance, and every rank above it.
        raise UsageError(
            f"the weights {weights} have {'no classifier' if found is None else f'a classifier of {found} classes'}, "
            f"the students have {setup.spec.num_classes} classes, so the teacher's accuracy cannot be measured",
            remedy=Remedy.GIVE_TEACHER_ACCURACY,
        )
    source = open_for_student(config.eval.data, setup.class_names, setup.spec.num_classes, config.eval.rules)
    with process_group(env, device):
        accuracy = evaluate(
            setup.step.student.to(device),
            source,
            setup.view,
            num_classes=setup.spec.num_classes,
            batch_size=config.eval.batch_size,
            device=device,
            env=env,
        )
    return accuracy.top1


def write_rank_table(path: Path, results: Sequence[RankResult]) -> None:
    """Write ``rank,accuracy,sd,num_seeds,num_parameters``: what `kdcache.analysis.effective_rank` reads, and more."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["rank", "accuracy", "sd", "num_seeds", "num_parameters"])
    for each in results:
        values = each.accuracies
        sd = stdev(values) if len(values) > 1 else ""
        writer.writerow([each.rank, mean(values), sd, len(values), each.num_parameters])
    write_file(path, text.getvalue().encode())
