"""The part of `kdcache eval` that trains a linear probe on the features of a frozen student."""

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdcache.cli.data_flags import rules_of
from kdcache.cli.text import counted, print_json
from kdcache.config import apply_settings
from kdcache.distributed.env import worker_env
from kdcache.distributed.process_group import choose_device
from kdcache.errors import UsageError
from kdcache.images import open_for_classes, open_source
from kdcache.train.probe import ProbeConfig, ProbeResult, linear_probe, too_few_steps

if TYPE_CHECKING:
    from collections.abc import Sequence


def run_probe(arguments: argparse.Namespace) -> int:
    """Train and evaluate the probes, and print them."""
    env = worker_env()
    if env.world_size > 1:
        raise UsageError("--probe runs in one process, for the student runs once; start it without torchrun")
    config, rules = _config(arguments), rules_of(arguments)
    training = open_source(arguments.probe_data, rules)
    results = linear_probe(
        arguments.run,
        training,
        open_for_classes(arguments.data, training.class_names, rules),
        config,
        weights=arguments.weights,
        batch_size=arguments.batch_size,
        device=choose_device(arguments.device, env),
    )
    caution = too_few_steps(config, results[0].num_images)
    if arguments.json:
        facts = {"run": str(arguments.run), "weights": arguments.weights, "data": arguments.data}
        facts |= {"probe_data": arguments.probe_data, "probe": asdict(config), "caution": caution}
        print_json({**facts, **{result.student: _figures(result) for result in results}})
    else:
        _print(arguments.run, arguments.weights, config, results, caution)
    return 0


def _config(arguments: argparse.Namespace) -> ProbeConfig:
    given = {"token": arguments.probe_token, "seeds": arguments.probe_seeds}
    settings = [f"{name}={value}" for name, value in given.items() if value is not None]
    return apply_settings(ProbeConfig(), settings + arguments.probe_settings)


def _figures(result: ProbeResult) -> dict[str, Any]:
    mean, deviation = result.top1()
    return {
        "top1": mean,
        "top1_sd": deviation,
        "num_channels": result.num_channels,
        "num_training_images": result.num_images,
        "seeds": [asdict(each) for each in result.accuracies],
    }


def _print(run: Path, weights: str, config: ProbeConfig, results: "Sequence[ProbeResult]", caution: str | None) -> None:
    first = results[0]
    print(
        f"{run}: {weights} weights, linear probe on the {config.token} token ({first.num_channels} "
        f"channels), trained on {counted(first.num_images, 'image')}"
    )
    for result in results:
        mean, deviation = result.top1()
        each = result.accuracies[0]
        print(
            f"  {result.student:<10}top-1 {mean:.2f} ± {deviation:.2f} % of {each.num_images} images "
            f"({counted(len(result.accuracies), 'seed')} of the probe)"
        )
    print("  untrained: the control, the same student with random weights of this run's seed")
    if bad := first.accuracies[0].num_bad:
        print(f"  {bad} undecodable images counted as wrong")
    if caution is not None:
        print(f"caution: {caution}; use --probe-set base_lr=... or epochs=...")
