"""Train a student from a cache; no teacher is loaded, but with --teacher online.

Running the same command again resumes from the last checkpoint, exactly. Works under torchrun. A recipe is a whole
published run by name; flags and --set change single settings of it. A method is a change of the student and a list of
terms; --term adds a term to it, or changes the one it has.
"""

import argparse
import inspect
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdcache.cli.progress import ProgressReporter
from kdcache.cli.text import print_json, size_text
from kdcache.config import apply_settings, keywords, parse_call, parse_pairs
from kdcache.errors import UsageError
from kdcache.methods import METHODS, load_method
from kdcache.recipes import RECIPES, load_recipe
from kdcache.terms import TERMS, load_term

if TYPE_CHECKING:
    import torch

    from kdcache.cache.cache import Cache
    from kdcache.cache.column import Column
    from kdcache.methods.base import Method
    from kdcache.terms.base import Term
    from kdcache.train.config import RunConfig
    from kdcache.train.loop import LoadTeachers, OnlineTargets

USAGE = "[RECIPE] --cache DIR --out DIR [--student NAME --method M] [--term T]... [options]"
EXAMPLE = f"""examples:
  kdcache train --cache caches/inet --student deit_tiny_patch16_224 --method lift --epochs 2 --out runs/lift
  kdcache train --cache caches/inet --student resnet18 --method logit --term gram:resize=student --out runs/gram
  kdcache train --cache caches/two --student deit_tiny_patch16_224 --method feature \\
      --term tokens:teacher=cait:blocks.-1/patch+dino:blocks.-1/patch,transform=phi-s --out runs/two
  kdcache train lift-deit-tiny-cait-s24 --cache caches/inet --out runs/lift --set optimizer.weight_decay=0.1
  torchrun --nproc-per-node 8 -m kdcache train --cache ... (as above)

terms, --term NAME:key=value,key=value; weight=0 leaves one out, and lists take + between their values:
{chr(10).join(f"  {name:<18}{line}" for name, (_, line) in TERMS.items())}
  All take weight; those of a teacher take teacher=[GROUP:]TAP[:CODEC] (GROUP: is any tap of it), where it is not the
  only one; those of tokens take student_block, resize=refuse|student|teacher and
  transform=none|mean|standardize|phi-s; tokens takes loss and adapter, logits temperature, cross-entropy
  label_smoothing, unic head and drop, projector released and teacher_affine. Two terms of one name: give both.

recipes: {", ".join(RECIPES)}"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags; those not given keep the recipe's values, or the defaults of RunConfig."""
    parser.add_argument("recipe", nargs="?", metavar="RECIPE", help="a published run (see below)")
    what = parser.add_argument_group("what")
    what.add_argument("--cache", type=Path, required=True, metavar="DIR", help="a finished cache")
    what.add_argument("--out", type=Path, required=True, metavar="DIR", help="the run folder")
    what.add_argument("--student", metavar="NAME", help="any timm model; lift and widelast need a ViT or DeiT")
    what.add_argument("--student-kwargs", nargs="+", metavar="K=V", help="further arguments of the student")
    what.add_argument("--method", metavar="M[:K=V,...]", help=f"{', '.join(METHODS)}; with settings of its own")
    what.add_argument("--term", action="append", default=[], dest="terms", metavar="T[:K=V,...]", help="see below")
    what.add_argument("--data", metavar="D", help="the images, for a cache that refers to them")
    what.add_argument(
        "--codec", help="which column, where a term leaves it open and a tap is cached under several codecs"
    )
    what.add_argument(
        "--teacher",
        choices=("cache", "online"),
        default="cache",
        help="cached outputs, or the teachers beside the student on the same views, for comparison (cache)",
    )
    what.add_argument(
        "--teacher-weights",
        action="append",
        default=[],
        metavar="[GROUP=]W",
        help="with --teacher online: hub or a file",
    )
    what.add_argument("--beside", type=Path, metavar="RUN", help="a finished run to print beside this one's figures")
    how = parser.add_argument_group("how")
    how.add_argument("--epochs", type=int, metavar="N", help="passes over the images")
    how.add_argument("--batch-size", type=int, metavar="N", help="views in a batch, over all ranks together (64)")
    how.add_argument("--eval-data", metavar="D", help="labelled images to evaluate the student on after every epoch")
    how.add_argument("--seed", type=int, help="of weights, order and dropout (0)")
    how.add_argument("--device", help="auto, cpu, cuda, cuda:1")
    how.add_argument("--tensorboard", action="store_true", default=None, help="write TensorBoard events as well")
    how.add_argument(
        "--set",
        action="append",
        dest="settings",
        default=[],
        metavar="NAME=VALUE",
        help="any other setting, such as optimizer.lr=1e-3, image_size=128, accumulate=4; repeat for more",
    )
    parser.add_argument("--json", action="store_true", help="print the summary as JSON and nothing else")


def run(arguments: argparse.Namespace) -> int:
    """Train."""
    config = _config(arguments)
    beside = _beside(arguments.beside)

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
                reporter.note(f"resuming after step {values['step']}")
            else:
                reporter.note(values["text"])

        load_teachers = _load_teachers(arguments.teacher_weights) if config.online else None
        summary = train(arguments.cache, arguments.out, config, env=env, load_teachers=load_teachers, on_event=show)
    other = None if beside is None else {str(arguments.beside): beside}
    if arguments.json and env.is_main:
        print_json(summary if other is None else {**summary, "beside": other})
    elif env.is_main:
        _print_summary(summary, arguments.out)
        if other is not None:
            _print_beside({str(arguments.out): summary, **other})
    return 0


def _load_teachers(weights: list[str]) -> "LoadTeachers":
    """The teachers of the columns in use, with the weights of --teacher-weights."""
    from kdcache.teacher.online import online_teachers

    def load(cache: "Cache", columns: "list[Column]", device: "torch.device") -> "OnlineTargets":
        groups = list(dict.fromkeys(column.group for column in columns))
        named: dict[str, str] = {}
        for text in weights:
            group, equals, given = text.partition("=")
            if not equals or group not in groups:  # a path may hold = too
                group, given = (groups[0] if len(groups) == 1 else ""), text
            if not group or group in named:
                raise UsageError(
                    f"--teacher-weights {text}: the run reads groups {', '.join(groups)}; "
                    "give GROUP=WEIGHTS once for each"
                )
            named[group] = given
        return online_teachers(cache, columns, device, weights=named)

    return load


def _beside(folder: Path | None) -> dict[str, Any] | None:
    from kdcache.train.folder import read_summary

    if folder is None:
        return None
    summary = read_summary(folder)
    if summary is None:
        raise UsageError(f"--beside {folder}: no finished run there")
    return summary


def _print_beside(runs: dict[str, dict[str, Any]]) -> None:
    from kdcache.reports.tables import text_table

    rows = [
        [
            name,
            summary["teacher"],
            f"{summary['step_ms']:.1f} ms",
            f"{summary['stall_share']:.1%}",
            size_text(summary["peak_memory_bytes"]),
            f"{summary['top1']:.2f} %" if "top1" in summary else "",
        ]
        for name, summary in runs.items()
    ]
    print(text_table(["", "teacher", "step", "waiting", "peak memory", "top-1"], rows))


def _config(arguments: argparse.Namespace) -> "RunConfig":
    from kdcache.train.config import RunConfig

    changes: dict[str, Any] = {}
    for name in ("student", "epochs", "batch_size", "seed", "device", "tensorboard"):
        if getattr(arguments, name) is not None:
            changes[name] = getattr(arguments, name)
    if arguments.student_kwargs is not None:
        changes["student_kwargs"] = parse_pairs(arguments.student_kwargs, "--student-kwargs")
    try:
        recipe: RunConfig | None = None if arguments.recipe is None else load_recipe(arguments.recipe)()
        method = _method(arguments.method, arguments.terms, None if recipe is None else recipe.method)
        if recipe is not None:
            config = replace(recipe, **changes, method=method)
        elif "student" in changes and method is not None:
            config = RunConfig(**changes, method=method)
        else:
            raise UsageError(f"give --student and --method, or one of the recipes {', '.join(RECIPES)}")
    except ValueError as error:
        raise UsageError(str(error)) from None
    groups = {"data.source": arguments.data, "data.codec": arguments.codec, "eval.data": arguments.eval_data}
    given = [f"{name}={value}" for name, value in groups.items() if value is not None]
    config = apply_settings(config, given + _checked(arguments.settings))
    if arguments.teacher == "online":
        config = replace(config, online=True)
    if arguments.teacher_weights and not config.online:
        raise UsageError("--teacher-weights would be ignored: no teacher is loaded; give --teacher online as well")
    return config


def _checked(settings: list[str]) -> list[str]:
    for setting in settings:
        if setting.startswith("method") and not setting.startswith("method.change."):
            raise UsageError(f"--set {setting}: choose a method and its settings with --method, a term's with --term")
    return settings


def _method(text: str | None, terms: list[str], method: "Method | None") -> "Method | None":
    """The method as --method and --term say it, from that of a recipe where there is one."""
    if text is not None:
        name, values = parse_call(text, "--method")
        if name not in METHODS:
            raise UsageError(f"--method {name}: choose from {', '.join(METHODS)}")
        preset = load_method(name)
        given = keywords(preset, values, f"--method {text}")
        method = preset(**given)
        _refuse_ignored(preset, given, method, text)
    if method is None or not terms:
        return method
    return method.with_terms([_term(each, method) for each in terms])


def _refuse_ignored(preset: "Callable[..., Method]", given: dict[str, Any], method: "Method", text: str) -> None:
    """Refuse settings of a method that change nothing, because their term has weight 0."""
    defaults = inspect.signature(preset).parameters
    for key in given:
        other = preset(**{name: value for name, value in given.items() if name != key})
        if given[key] != defaults[key].default and (other.active, other.change) == (method.active, method.change):
            raise UsageError(f"--method {text}: {key} would be ignored, its term has weight 0")


def _term(text: str, method: "Method") -> "Term":
    """A term from the command line; keys that are not given are those of the method's own term of that name."""
    name, values = parse_call(text, "--term")
    kind = load_term(name)
    given = keywords(kind, values, f"--term {text}")
    own = [term for term in method.terms if term.name == name]
    try:
        return replace(own[0], **given) if len(own) == 1 else kind(**given)  # pyright: ignore[reportCallIssue, reportArgumentType]
    except ValueError as error:
        raise UsageError(f"--term {text}: {error}") from None


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
