"""Top-1 and top-5 accuracy of a trained student on labelled images."""

import argparse
from dataclasses import asdict
from pathlib import Path

from kdcache.cli.text import print_json
from kdcache.errors import UsageError

USAGE = "RUN --data DATA [options]"
EXAMPLE = """example:
  kdcache eval runs/lift --data 'imagenet/val-{00..49}.tar' --json"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument("run", type=Path, metavar="RUN", help="the folder of a finished run")
    parser.add_argument("--data", required=True, metavar="D", help="folder of class folders, tars, or digits:test")
    parser.add_argument("--ema", action="store_true", help="evaluate the averaged weights")
    parser.add_argument("--batch-size", type=int, default=64, metavar="N", help="images in one forward (64)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Evaluate."""
    if arguments.batch_size < 1:
        raise UsageError(f"--batch-size must be at least 1, got {arguments.batch_size}")

    from kdcache.distributed.env import worker_env
    from kdcache.distributed.process_group import choose_device, process_group
    from kdcache.images import open_source
    from kdcache.train.evaluate import check_classes, evaluate
    from kdcache.train.folder import AVERAGED_WEIGHTS, WEIGHTS, load_student

    env = worker_env()
    device = choose_device(arguments.device, env)
    weights = AVERAGED_WEIGHTS if arguments.ema else WEIGHTS
    student, spec, view, class_names = load_student(arguments.run, weights=weights)
    source = open_source(arguments.data)
    check_classes(source, class_names)
    with process_group(env, device):
        accuracy = evaluate(
            student.to(device),
            source,
            view,
            num_classes=spec.num_classes,
            batch_size=arguments.batch_size,
            device=device,
            env=env,
        )
    if not env.is_main:
        return 0
    if arguments.json:
        print_json({"run": str(arguments.run), "data": arguments.data, **asdict(accuracy)})
    else:
        bad = f", {accuracy.num_bad} undecodable ones counted as wrong" if accuracy.num_bad else ""
        print(
            f"{arguments.run}: top-1 {accuracy.top1:.2f} %, top-5 {accuracy.top5:.2f} % of {accuracy.num_images} "
            f"images{bad}"
        )
    return 0
