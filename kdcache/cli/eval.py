"""Top-1 and top-5 accuracy of a trained student on labelled images."""

import argparse
import os
from dataclasses import asdict
from pathlib import Path

from kdcache.cli.data_flags import DATA_HELP, add_data, add_rules, rules_of
from kdcache.cli.places import local_path
from kdcache.cli.text import WEIGHTS_HELP, print_json
from kdcache.errors import UsageError

USAGE = "RUN --data DATA [options]"
EXAMPLE = """examples:
  kdcache eval runs/lift --data 'imagenet/val-{00..49}.tar' --json
  kdcache eval runs/lift --data imagenet/val --weights best --predictions predictions.csv
  kdcache eval runs/lift --data imagenet/val --probe --probe-data imagenet/train --probe-token mean"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument("run", type=local_path, metavar="RUN", help="the folder of a finished run")
    add_data(parser, "--data", required=True, help=f"{DATA_HELP}; folders of some of the classes are enough")
    parser.add_argument("--weights", default="last", metavar="W", help=WEIGHTS_HELP)
    parser.add_argument("--batch-size", type=int, default=64, metavar="N", help="images in one forward (64)")
    parser.add_argument(
        "--predictions",
        type=local_path,
        metavar="FILE",
        help="write a CSV of every image's key, label and five likeliest classes with their probabilities",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1")
    add_rules(parser.add_argument_group("images"))
    probe = parser.add_argument_group(
        "linear probe",
        "BatchNorm and a linear layer on the frozen student, trained by LARS on features that are kept in RUN/probe",
    )
    probe.add_argument("--probe", action="store_true", help="train a probe and evaluate it on --data")
    add_data(probe, "--probe-data", help="labelled images that it is trained on")
    probe.add_argument("--probe-token", choices=("class", "mean"), help="what it reads (class)")
    probe.add_argument("--probe-seeds", type=int, metavar="N", help="probes to train, for mean ± sd (3)")
    probe.add_argument(
        "--probe-set",
        action="append",
        dest="probe_settings",
        default=[],
        metavar="NAME=VALUE",
        help="epochs (50), batch_size (512), base_lr (0.1, for a batch of 256); repeat for more",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def _check_probe(arguments: argparse.Namespace) -> None:
    if arguments.probe:
        if arguments.probe_data is None:
            raise UsageError("--probe needs labelled images to train on: --probe-data DATA")
        return
    for flag in ("probe_data", "probe_token", "probe_seeds", "probe_settings"):
        if getattr(arguments, flag) not in (None, []):
            name = "probe-set" if flag == "probe_settings" else flag.replace("_", "-")
            raise UsageError(f"--{name} goes with --probe")


def _check_predictions(path: Path, world_size: int) -> None:
    """Before the student is loaded: whether the file can be written at the end."""
    if world_size > 1:
        raise UsageError(f"--predictions is written by one process, and this is one of {world_size}; run it alone")
    if os.path.lexists(path):
        raise UsageError(f"--predictions {path}: there is a file already; name another one, or remove it")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"--predictions {path}: there is no folder {path.absolute().parent}; make it first")


def run(arguments: argparse.Namespace) -> int:
    """Evaluate."""
    if arguments.batch_size < 1:
        raise UsageError(f"--batch-size must be at least 1, got {arguments.batch_size}")

    _check_probe(arguments)
    if arguments.probe:
        if arguments.predictions is not None:
            raise UsageError("--predictions would be ignored with --probe; leave one of them out")
        from kdcache.cli.eval_probe import run_probe

        return run_probe(arguments)

    from kdcache.distributed.env import worker_env
    from kdcache.distributed.process_group import choose_device, process_group
    from kdcache.train.evaluate import evaluate, open_for_student
    from kdcache.train.folder import load_student
    from kdcache.train.kept_weights import weights_name
    from kdcache.train.predictions import PredictionTable

    env = worker_env()
    if arguments.predictions is not None:
        _check_predictions(arguments.predictions, env.world_size)
    device = choose_device(arguments.device, env)
    weights = weights_name(arguments.run, arguments.weights)
    student, spec, view, class_names = load_student(arguments.run, weights=weights)
    source = open_for_student(arguments.data, class_names, spec.num_classes, rules_of(arguments))
    table = PredictionTable(source, class_names)
    with process_group(env, device):
        accuracy = evaluate(
            student.to(device),
            source,
            view,
            num_classes=spec.num_classes,
            batch_size=arguments.batch_size,
            device=device,
            env=env,
            on_logits=None if arguments.predictions is None else table.add,
        )
    if arguments.predictions is not None:
        table.write(arguments.predictions)
    if not env.is_main:
        return 0
    if arguments.json:
        facts = {"run": str(arguments.run), "weights": arguments.weights, "data": arguments.data}
        print_json({**facts, **asdict(accuracy)})
    else:
        bad = f", {accuracy.num_bad} undecodable ones counted as wrong" if accuracy.num_bad else ""
        print(
            f"{arguments.run}: {arguments.weights} weights, top-1 {accuracy.top1:.2f} %, "
            f"top-5 {accuracy.top5:.2f} % of {accuracy.num_images} images{bad}"
        )
    return 0
