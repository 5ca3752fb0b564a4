"""Train a student from a cache; no teacher is loaded, but with --teacher online.

Running the same command again resumes from the last checkpoint, exactly; a finished run takes more --epochs. Works
under torchrun. A recipe is a whole published run by name; flags and --set change single settings of it. A method is a
change of the student and a list of terms; --term adds a term to it, or changes the one it has.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdcache.cli.data_flags import add_data
from kdcache.cli.places import PLACE_HELP, local_path, place
from kdcache.cli.progress import ProgressReporter
from kdcache.cli.text import MODEL_HELP, print_json, size_text
from kdcache.cli.train_config import read_config, without_logits
from kdcache.errors import UsageError
from kdcache.methods import METHODS
from kdcache.recipes import RECIPES, recipe_notes, recipe_summary
from kdcache.students import CHANGES
from kdcache.terms import TERMS

if TYPE_CHECKING:
    import torch

    from kdcache.cache.cache import Cache
    from kdcache.cache.column import Column
    from kdcache.train.loop import LoadTeachers, OnEvent, OnlineTargets

USAGE = "[RECIPE] --cache DIR --out DIR [--student NAME --method M] [--term T]... [options]"
EXAMPLE = f"""examples:
  kdcache train --cache caches/inet --student deit_tiny_patch16_224 --method lift --epochs 2 --out runs/lift
  kdcache train --cache caches/inet --student resnet18 --method logit --term gram:resize=student --out runs/gram
  kdcache train --cache caches/two --student deit_tiny_patch16_224 --method feature \\
      --term tokens:teacher=cait:blocks.-1/patch+dino:blocks.-1/patch,transform=phi-s --out runs/two
  kdcache train em-lift-logit-mse --cache caches/inet --out runs/lift --set optimizer.weight_decay=0.1
  torchrun --nproc-per-node 8 -m kdcache train --cache ... [--set parallel=fsdp]

terms, --term NAME:key=value,key=value; weight=0 leaves one out, and lists take + between their values:
{chr(10).join(f"  {name:<18}{line}" for name, (_, line) in TERMS.items())}
  All take weight; those of a teacher take teacher=[GROUP:]TAP[:CODEC] (GROUP: is any tap of it), where it is not the
  only one; those of tokens take student_block, resize=refuse|student|teacher and
  transform=none|mean|standardize|phi-s|layer-norm; tokens takes loss and adapter, logits temperature,
  cross-entropy label_smoothing, unic head and drop, projector released and teacher_affine, local blocks and
  mode=teacher|student|both, proteus class_weight, all_weight, masked_weight, masked_images and mask_ratio, leap
  threshold, alpha, max_steps and start=closest|first. local reads all tokens of every block, leap patch tokens of
  every block: teacher=GROUP: names whose. Two terms of one name: give both.

changes of the student, --change NAME:key=value,key=value:
{chr(10).join(f"  {name:<18}{line}" for name, (_, line) in CHANGES.items())}
  lift and widelast take width (the teacher's) and init=timm|released, widelast schedule; weight-copy every,
  adapters=enhanced|lora|none and rank; low-rank init=svd|random and rank, or budget with search=bottom|top|uniform,
  min_rank and rank_step.

`kdcache train --recipes` lists the {len(RECIPES)} recipes."""


class _ListRecipes(argparse.Action):
    """Prints all recipes and leaves, as --help does."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        """See argparse.Action."""
        for name in RECIPES:
            print(f"{name:<34}{recipe_summary(name)}")
        parser.exit()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags; those not given keep the recipe's values, or the defaults of RunConfig."""
    parser.add_argument("recipe", nargs="?", metavar="RECIPE", help="a published run by name")
    parser.add_argument("--recipes", action=_ListRecipes, nargs=0, help="list them, with published figures, and leave")
    what = parser.add_argument_group("what")
    what.add_argument("--cache", type=place, required=True, metavar="DIR", help=f"a finished cache: {PLACE_HELP}")
    what.add_argument("--out", type=local_path, required=True, metavar="DIR", help="the run folder")
    what.add_argument("--student", metavar="NAME", help=MODEL_HELP)
    what.add_argument(
        "--student-kwargs", action="extend", nargs="+", metavar="K=V", help="further arguments of the student"
    )
    what.add_argument(
        "--student-weights", metavar="W", help="what the student begins with: hub, a file, or random (the default)"
    )
    what.add_argument("--method", metavar="M[:K=V,...]", help=f"{', '.join(METHODS)}; with settings of its own")
    what.add_argument("--change", metavar="C[:K=V,...]", help="of the student, in place of the method's; see below")
    what.add_argument("--term", action="append", default=[], dest="terms", metavar="T[:K=V,...]", help="see below")
    add_data(what, "--data", help="the images, for a cache that refers to them")
    what.add_argument("--per-class", metavar="N|P%", help="train on N images, or P%% of the images, of every class")
    what.add_argument("--per-class-seed", type=int, metavar="S", help="of that draw (the run's seed)")
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
    what.add_argument(
        "--beside", type=local_path, metavar="RUN", help="a finished run to print beside this one's figures"
    )
    _add_how(parser)
    parser.add_argument("--json", action="store_true", help="print the summary as JSON and nothing else")


def _add_how(parser: argparse.ArgumentParser) -> None:
    how = parser.add_argument_group("how")
    how.add_argument("--epochs", type=int, metavar="N", help="passes over the images")
    how.add_argument(
        "--batch-size",
        type=int,
        metavar="N",
        help="views in a batch, over all ranks (64, or less)",
    )
    add_data(how, "--eval-data", help="labelled images, evaluated after every epoch")
    how.add_argument("--seed", type=int, help="of weights, order and dropout (0)")
    how.add_argument("--device", help="auto, cpu, cuda, cuda:1")
    how.add_argument("--tensorboard", action="store_true", default=None, help="write TensorBoard events as well")
    how.add_argument(
        "--set",
        action="append",
        dest="settings",
        default=[],
        metavar="NAME=VALUE",
        help="any other setting, such as optimizer.lr=1e-3, image_size=128, accumulate=4; repeat for more. Repeated "
        "augmentation as DeiT has it: data.views_per_sample=3 and data.epoch_of=views (three views of an image side by "
        "side, a third of the images an epoch)",
    )
    how.add_argument("--accept-versions", action="store_true", help="resume with other versions of libraries")


def run(arguments: argparse.Namespace) -> int:
    """Train."""
    config, note = without_logits(arguments, read_config(arguments))
    beside = _beside(arguments.beside)

    from kdcache.distributed.env import worker_env
    from kdcache.train.loop import train

    env = worker_env()
    visible = env.is_main and not arguments.json
    with ProgressReporter("train", "steps", visible=visible) as reporter:
        if arguments.recipe is not None:
            reporter.note(f"{arguments.recipe}: {recipe_notes(arguments.recipe)}")
        if note:
            reporter.note(note)

        load_teachers = _load_teachers(arguments.teacher_weights) if config.online else None
        summary = train(
            arguments.cache,
            arguments.out,
            config,
            env=env,
            load_teachers=load_teachers,
            accept_versions=arguments.accept_versions,
            on_event=show_events(reporter),
        )
    other = None if beside is None else {str(arguments.beside): beside}
    if arguments.json and env.is_main:
        print_json(summary if other is None else {**summary, "beside": other})
    elif env.is_main:
        _print_summary(summary, arguments.out)
        if other is not None:
            _print_beside({str(arguments.out): summary, **other})
    return 0


def show_events(reporter: ProgressReporter) -> "OnEvent":
    """What shows the events of `kdcache.train.loop.train`: steps as progress, all others as lines that stay."""

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

    return show


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


def _before_factoring(summary: dict[str, Any]) -> str:
    dense = summary["num_dense_parameters"]
    return "" if dense == summary["num_parameters"] else f" ({dense / 1e6:.2f} M before layers were factored)"


def _print_summary(summary: dict[str, Any], out: Path) -> None:
    if "top1" in summary:
        print(
            f"top-1 {summary['top1']:.2f} %, top-5 {summary['top5']:.2f} % of {summary['num_images']} images (last "
            f"epoch); best {summary['best_top1']:.2f} % after {summary['best_epoch']} epochs (--weights best)"
        )
    print(
        f"{summary['steps']} steps, {summary['images_per_s']:.1f} images/s, {summary['stall_share']:.1%} waiting for "
        f"data, peak memory {size_text(summary['peak_memory_bytes'])}, {summary['num_parameters'] / 1e6:.2f} M "
        f"parameters{_before_factoring(summary)}"
    )
    for operation, form in summary["fused_operations"].items():
        print(f"{operation} ran in {form}")
    print(f"{out}: student.safetensors, metrics.jsonl, summary.json")
    print(f"next: kdcache eval {out} --data ..., kdcache export {out} --out ...")
