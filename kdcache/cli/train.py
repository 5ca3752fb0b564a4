"""Train a student from a cache. No teacher is loaded.

Running the same command again goes on from the last checkpoint, exactly. Works under torchrun. A recipe is a whole
published run by name; flags and --set change single settings of it.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdcache.cli.progress import ProgressReporter
from kdcache.cli.text import print_json, size_text
from kdcache.config import apply_settings, parse_pairs
from kdcache.errors import UsageError
from kdcache.recipes import RECIPES, load_recipe

if TYPE_CHECKING:
    from kdcache.train.config import RunConfig

USAGE = "[RECIPE] --cache DIR --out DIR [--student NAME --method M] [options]"
EXAMPLE = f"""examples:
  kdcache train --cache caches/inet --student deit_tiny_patch16_224 --method lift --epochs 2 --out runs/lift
  kdcache train lift-deit-tiny-cait-s24 --cache caches/inet --out runs/lift --set optimizer.weight_decay=0.1
  torchrun --nproc-per-node 8 -m kdcache train --cache ... (as above)

recipes: {", ".join(RECIPES)}"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags; those not given keep the recipe's values, or the defaults of RunConfig."""
    parser.add_argument("recipe", nargs="?", metavar="RECIPE", help="a published run (see below)")
    what = parser.add_argument_group("what")
    what.add_argument("--cache", type=Path, required=True, metavar="DIR", help="a finished cache")
    what.add_argument("--out", type=Path, required=True, metavar="DIR", help="the run folder")
    what.add_argument("--student", metavar="NAME", help="any timm model; lift and widelast need a ViT or DeiT")
    what.add_argument("--student-kwargs", nargs="+", metavar="K=V", help="further arguments of the student")
    what.add_argument("--method", metavar="M", help="none, logit, feature, lift, widelast")
    what.add_argument("--data", metavar="D", help="the images, for a cache that refers to them")
    what.add_argument("--codec", help="which column, when a tap is cached under several codecs")
    how = parser.add_argument_group("how")
    how.add_argument("--epochs", type=int, metavar="N", help="passes over the images")
    how.add_argument("--batch-size", type=int, metavar="N", help="views in a batch, over all ranks together (64)")
    how.add_argument("--eval-data", metavar="D", help="labelled images to judge the student on after every epoch")
    how.add_argument("--seed", type=int, help="of weights, order and dropout (0)")
    how.add_argument("--device", help="auto, cpu, cuda, cuda:1")
    how.add_argument("--tensorboard", action="store_true", default=None, help="write TensorBoard events as well")
    how.add_argument(
        "--set",
        action="append",
        dest="settings",
        default=[],
        metavar="NAME=VALUE",
        help="any other setting, such as optimizer.lr=1e-3, method.feature_weight=0.4, accumulate=4; repeat for more",
    )
    parser.add_argument("--json", action="store_true", help="print the summary as JSON and nothing else")


def run(arguments: argparse.Namespace) -> int:
    """Train."""
    config = _config(arguments)

    from kdcache.distributed.env import worker_env
    from kdcache.train.loop import train

    env = worker_env()
    visible = env.is_main and not arguments.json
    with ProgressReporter("train", "steps", visible=visible) as reporter:

        def show(kind: str, values: dict[str, Any]) -> None:
            if kind == "step":
                note = f"epoch {values['epoch']}, loss {values['loss']:.4f}, {values['images_per_s']:.0f} images/s"
                reporter.update(values["step"], values["num_steps"], f"{note}, {values['stall_share']:.0%} waiting")
            elif kind == "eval":
                reporter.note(f"epoch {values['epoch']}: top-1 {values['top1']:.2f} %, top-5 {values['top5']:.2f} %")
            elif kind == "resume":
                reporter.note(f"going on after step {values['step']}")
            else:
                reporter.note(values["text"])

        summary = train(arguments.cache, arguments.out, config, env=env, on_event=show)
    if arguments.json and env.is_main:
        print_json(summary)
    elif env.is_main:
        _print_summary(summary, arguments.out)
    return 0


def _config(arguments: argparse.Namespace) -> "RunConfig":
    from kdcache.methods import METHODS
    from kdcache.train.config import RunConfig

    changes: dict[str, Any] = {}
    if arguments.method is not None:
        if arguments.method not in METHODS:
            raise UsageError(f"--method {arguments.method}: choose from {', '.join(METHODS)}")
        changes["method"] = METHODS[arguments.method].config_type()  # pyright: ignore[reportCallIssue]
    for name in ("student", "epochs", "batch_size", "seed", "device", "tensorboard"):
        if getattr(arguments, name) is not None:
            changes[name] = getattr(arguments, name)
    if arguments.student_kwargs is not None:
        changes["student_kwargs"] = parse_pairs(arguments.student_kwargs, "--student-kwargs")
    try:
        if arguments.recipe is not None:
            config: RunConfig = replace(load_recipe(arguments.recipe)(), **changes)
        elif "student" in changes and "method" in changes:
            config = RunConfig(**changes)
        else:
            raise UsageError(f"give --student and --method, or one of the recipes {', '.join(RECIPES)}")
    except ValueError as error:
        raise UsageError(str(error)) from None
    groups = {"data.source": arguments.data, "data.codec": arguments.codec, "eval.data": arguments.eval_data}
    given = [f"{name}={value}" for name, value in groups.items() if value is not None]
    return apply_settings(config, given + arguments.settings)


def _print_summary(summary: dict[str, Any], out: Path) -> None:
    if "top1" in summary:
        print(
            f"top-1 {summary['top1']:.2f} %, top-5 {summary['top5']:.2f} % of {summary['num_images']} images (last "
            "epoch)"
        )
    print(
        f"{summary['steps']} steps, {summary['images_per_s']:.1f} images/s, {summary['stall_share']:.1%} waiting for "
        f"data, peak memory {size_text(summary['peak_memory_bytes'])}, {summary['num_parameters'] / 1e6:.2f} M "
        "parameters"
    )
    print(f"{out}: student.safetensors, metrics.jsonl, summary.json\nnext: kdcache eval {out} --data ...")
