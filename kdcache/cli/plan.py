"""Say whether a cache pays before a night is spent on it, from short real measurements on this machine.

A few images go through the real pass with random weights of the teacher, and a student takes a few real steps with
the cache and with the teacher beside it. Nothing is downloaded, and nothing stays. Epochs count over all students.
"""

import argparse
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdcache.cli.parser import output_file
from kdcache.cli.pass_flags import add_images, add_kept, add_teacher, add_views, parsed_values
from kdcache.cli.places import local_path
from kdcache.cli.plan_text import plan_text
from kdcache.cli.progress import ProgressReporter
from kdcache.config import parse_pairs
from kdcache.errors import UsageError

if TYPE_CHECKING:
    from kdcache.planning.plan import PlanConfig

USAGE = "(--data DATA | --images N) --teacher NAME [options]"
EXAMPLE = """examples:
  kdcache plan --images 1281167 --teacher cait_s24_224 --views 4 --epochs 300 --disk /data
  kdcache plan --data photos/train --teacher deit_small_patch16_224 --tap blocks.-1/patch:int8 --tap head/logits"""

_OWN = ("num_images", "reference_images", "image_kb", "student", "student_kwargs", "student_batch_size", "epochs")
_OWN_HOW = ("disk", "seconds", "json")
# Flags whose name is not that of their setting.
_FLAGS = {"taps": "--tap", "image_timeout_s": "--image-timeout"}
_PLACEHOLDER = "DATA"
# Settings that mean nothing without images.
_OF_DATA = (
    *("limit", "per_class", "per_class_seed", "labels", "label_member", "image_member", "tar_keys", "key_prefix"),
    *("class_order", "class_map", "exif", "alpha_color"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags: those of a pass, and what is planned."""
    add_images(parser)
    add_teacher(parser)
    kept = add_kept(parser)
    kept.add_argument("--reference-images", action="store_true", help="as `--images reference`")
    add_views(parser)
    planned = parser.add_argument_group("what is planned")
    planned.add_argument(
        "--images", type=int, metavar="N", dest="num_images", help="images of the cache (those of --data)"
    )
    planned.add_argument("--image-kb", type=float, metavar="KB", help="mean image file, without --data (115)")
    planned.add_argument(
        "--student", metavar="NAME", default="deit_tiny_patch16_224", help="a timm model (deit_tiny_patch16_224)"
    )
    planned.add_argument(
        "--student-kwargs", action="extend", nargs="+", metavar="K=V", default=[], help="further arguments of it"
    )
    planned.add_argument("--student-batch-size", type=int, metavar="N", default=64, help="views in a step (64)")
    planned.add_argument("--epochs", type=int, metavar="N", help="of all students together (the verdict names a limit)")
    how = parser.add_argument_group("how")
    how.add_argument("--disk", type=local_path, metavar="DIR", default=Path(), help="where the cache would lie (here)")
    how.add_argument("--seconds", type=float, metavar="S", default=6.0, help="for each measurement, about (6)")
    how.add_argument("--json", type=output_file(".json"), metavar="FILE.json", help="write all figures to this file")


def run(arguments: argparse.Namespace) -> int:
    """Measure and decide."""
    config = _config(arguments)
    if arguments.json is not None:
        _refuse_other_files(arguments.json)

    from kdcache.planning.plan import make_plan
    from kdcache.strict_json import dump_json

    with ProgressReporter("plan", "steps") as reporter:
        plan = make_plan(config, on_note=lambda what: reporter.note(f"measuring: {what}"))
    command = extract_command(vars(arguments), config.extract.group_name)
    if arguments.json is not None:
        from kdcache.durable import write_file

        write_file(arguments.json, dump_json({**plan.facts(), "command": command}))
    print(plan_text(plan, config))
    print(plan.verdict.text)
    if plan.verdict.caches:
        print(command)
    return 0


def extract_command(values: Mapping[str, Any], name: str) -> str:
    """The extraction that was planned, as one line for a shell.

    Args:
        values: The flags of the plan.
        name: Folder of the cache on its disk.
    """
    words = ["kdcache", "extract", "--data", *(values["data"] or _PLACEHOLDER).split("::")]
    for key, value in values.items():
        if key == "data" or key in (*_OWN, *_OWN_HOW) or value in (None, []):
            continue
        flag = _FLAGS.get(key, f"--{key.replace('_', '-')}")
        if key == "taps":
            words += [word for tap in value for word in (flag, tap)]
        else:
            words += [flag, *(value if isinstance(value, list) else [str(value)])]
    if values["reference_images"]:
        words += ["--images", "reference"]
    if values.get("views", 1) > 1 and "view_recipe" not in values:
        words += ["--view-recipe", "rrc-flip"]
    return shlex.join([*words, "--out", str(values["disk"] / name)])


def _config(arguments: argparse.Namespace) -> "PlanConfig":
    from kdcache.planning.pictures import IMAGE_BYTES
    from kdcache.planning.plan import PlanConfig
    from kdcache.planning.training import StudentConfig
    from kdcache.teacher.config import ExtractConfig

    values = {key: value for key, value in vars(arguments).items() if key not in (*_OWN, *_OWN_HOW)}
    _refuse_ignored(values, arguments)
    values |= parsed_values(values)
    if values.get("views", 1) > 1:
        values.setdefault("view_recipe", "rrc-flip")
    image_kb = arguments.image_kb
    try:
        return PlanConfig(
            extract=ExtractConfig(
                **{**values, "data": values["data"] or _PLACEHOLDER},
                images="reference" if arguments.reference_images else "embed",
                out=arguments.disk,
            ),
            has_data=values["data"] is not None,
            num_images=arguments.num_images,
            image_bytes=IMAGE_BYTES if image_kb is None else round(1000 * image_kb),
            student=StudentConfig(
                name=arguments.student,
                kwargs=parse_pairs(arguments.student_kwargs, "--student-kwargs"),
                batch_size=arguments.student_batch_size,
                device=values.get("device", "auto"),
            ),
            disk=arguments.disk,
            epochs=arguments.epochs,
            seconds=arguments.seconds,
        )
    except ValueError as error:
        raise UsageError(str(error)) from None


def _refuse_other_files(path: Path) -> None:
    """Refuse to lose a file that is no plan, or minutes for a folder that is not there. Raises: UsageError."""
    from kdcache.errors import KdcacheError
    from kdcache.storage import read_regular
    from kdcache.strict_json import load_json

    if not path.parent.is_dir():
        raise UsageError(f"--json {path}: there is no folder {path.parent}; make it first")
    if not path.exists():
        return
    try:
        found = load_json(read_regular(path), where=str(path))
    except KdcacheError:
        found = None
    if not isinstance(found, dict) or not {"verdict", "break_even_epochs", "command"} <= found.keys():
        raise UsageError(f"--json {path}: is there and is no plan; choose another file")


def _refuse_ignored(values: Mapping[str, Any], arguments: argparse.Namespace) -> None:
    if values["data"] is not None:
        if arguments.image_kb is not None:
            raise UsageError("--image-kb would be ignored: the images of --data have a size; leave it out")
        return
    if arguments.num_images is None:
        raise UsageError("give --data, or --images with the number of images")
    if ignored := [f"--{key.replace('_', '-')}" for key in _OF_DATA if key in values]:
        raise UsageError(f"{', '.join(ignored)} would be ignored: give --data as well")
