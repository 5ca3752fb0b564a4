"""Run a frozen teacher over images once and keep its outputs in a cache.

Running the same command again resumes where it stopped. Under torchrun every worker takes its part of the shards.
With --add another teacher, precision, tap or codec, or the pixels themselves, join a cache that is there, on its views.
"""

import argparse
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdcache.cli.progress import ProgressReporter
from kdcache.cli.text import codec_names, counted, fidelity_text, print_json, size_text
from kdcache.config import parse_pairs
from kdcache.errors import UsageError

if TYPE_CHECKING:
    from kdcache.images import Source
    from kdcache.teacher.extract import ExtractReport

USAGE = "(--data DATA --teacher NAME | --add [--teacher NAME]) --out DIR [options]"
_MAX_CLASSES = 12
EXAMPLE = """examples:
  kdcache extract --data 'imagenet/train-{0000..1023}.tar' --teacher cait_s24_224 --tap blocks.-1/patch \\
      --tap head/logits --codec int8 --views 2 --view-recipe rrc-flip --out caches/inet
  kdcache extract --add --teacher deit_small_patch16_224 --precision fp32 --out caches/inet
  kdcache extract --add --pixels raw --out caches/inet"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags; a flag that is not given keeps the default of ExtractConfig."""
    default = argparse.SUPPRESS
    _add_images(parser)

    teacher = parser.add_argument_group("teacher")
    teacher.add_argument("--teacher", metavar="NAME", default=default, help="any timm model")
    teacher.add_argument(
        "--teacher-weights",
        metavar="W",
        default=default,
        help="hub (default), random, or a file (FILE:NAME: one of several sets of weights in it)",
    )
    teacher.add_argument(
        "--teacher-kwargs", nargs="+", metavar="K=V", default=[], help="further arguments of the model"
    )
    teacher.add_argument("--precision", choices=("auto", "fp32", "bf16", "fp16"), default=default, help="autocast type")
    teacher.add_argument("--device", default=default, help="auto, cpu, cuda, cuda:1")
    teacher.add_argument("--cpu-threads", type=int, metavar="N", default=default, help="of a forward on a CPU (cores)")
    teacher.add_argument("--batch-size", type=int, metavar="N", default=default, help="views in one forward (32)")

    kept = parser.add_argument_group("what is kept")
    kept.add_argument(
        "--tap",
        action="append",
        dest="taps",
        metavar="TAP[:CODEC]",
        default=default,
        help="blocks.N/patch, blocks.N/prefix (N from 0, or negative from the end), head/logits, head/embedding "
        "(the pooled feature, of a teacher without classifier too); repeat for more",
    )
    names = ", ".join(codec_names())
    kept.add_argument("--codec", default=default, help=f"of token taps that name none (fp16), one of {names}")
    kept.add_argument(
        "--max-error",
        type=float,
        metavar="E",
        default=default,
        help="refuse a codec that loses more of the spread around the channels' means (0.1 for tokens, any for logits)",
    )
    kept.add_argument("--images", choices=("embed", "reference"), default=default, help="copy the images? (embed)")
    kept.add_argument("--statistics", choices=("full", "light"), default=default, help="second moments too? (full)")

    kept.add_argument(
        "--pixels",
        metavar="P",
        default=default,
        help="how students get the views: replay (from the images), raw (uint8, fastest, 3 bytes a pixel), "
        "jpeg or jpeg:QUALITY (small; teacher and students both see it) (replay)",
    )

    _add_views(parser)
    _add_output(parser)


def _add_images(parser: argparse.ArgumentParser) -> None:
    default = argparse.SUPPRESS
    data = parser.add_argument_group("images")
    data.add_argument(
        "--data",
        default=default,
        help="folder of class folders, tars (.tar, .tar.gz, braces), or digits; with --add only where the cache refers "
        "to its images",
    )
    data.add_argument("--limit", type=int, metavar="N", default=default, help="take N images only")
    data.add_argument(
        "--per-class", metavar="N|P%", default=default, help="take N images, or P%% of the images, of every class"
    )
    data.add_argument("--per-class-seed", type=int, metavar="S", default=default, help="of that draw (the seed)")
    data.add_argument(
        "--class-order",
        choices=("natural", "sorted"),
        default=default,
        help="of class folders: as timm's, or by code points (natural)",
    )
    data.add_argument(
        "--class-map",
        type=Path,
        metavar="FILE",
        default=default,
        help="names of class folders, one a line, in the order of the teacher's classes",
    )
    data.add_argument(
        "--order", choices=("shuffle", "source"), default=default, help="order in the cache (default: shuffle)"
    )
    data.add_argument("--max-bad", type=float, metavar="F", default=default, help="fraction of unusable images (0.01)")
    data.add_argument("--image-timeout", type=float, metavar="S", default=default, dest="image_timeout_s", help="(120)")


def _add_views(parser: argparse.ArgumentParser) -> None:
    default = argparse.SUPPRESS
    views = parser.add_argument_group("views")
    views.add_argument("--views", type=int, metavar="K", default=default, help="views of each image (1)")
    views.add_argument(
        "--view-recipe",
        choices=("eval", "rrc-flip", "deit"),
        default=default,
        help="how they are drawn: the teacher's evaluation view, a random resized crop and flip, or these with "
        "RandAugment (rand-m9-mstd0.5-inc1) and random erasing (0.25, pixel), as DeiT trains (eval)",
    )
    views.add_argument(
        "--view-params",
        nargs="+",
        metavar="K=V",
        default=[],
        help="of eval: crop_pct, squash; of rrc-flip and deit: scale, ratio, flip; of deit: operation, magnitude, "
        "magnitude_std, erase, erase_area, erase_ratio",
    )
    views.add_argument("--image-size", type=int, metavar="S", default=default, help="side of the view (the teacher's)")
    views.add_argument("--interpolation", default=default, help="resize filter (the teacher's; bicubic for deit)")
    views.add_argument("--seed", type=int, default=default, help="of views, order and random weights (0)")


def _add_output(parser: argparse.ArgumentParser) -> None:
    default = argparse.SUPPRESS
    out = parser.add_argument_group("output")
    out.add_argument("--out", type=Path, required=True, metavar="DIR", help="the cache")
    out.add_argument(
        "--add",
        action="store_true",
        default=default,
        help="add to a cache that is there, on its views; changes no file",
    )
    out.add_argument("--group", metavar="NAME", default=default, help="of the teacher's columns (the teacher's name)")
    out.add_argument("--split", default=default, help="word in front of shard names (train)")
    out.add_argument("--shard-samples", type=int, metavar="N", default=default, help="images in a shard (512)")
    out.add_argument("--threads", type=int, metavar="N", default=default, help="reading threads (all cores)")
    out.add_argument(
        "--no-space-check", action="store_false", dest="check_space", default=default, help="start on a disk too small"
    )
    out.add_argument("--json", action="store_true", help="print the result as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Extract."""
    values: dict[str, Any] = {**vars(arguments)}
    as_json = values.pop("json")
    values["teacher_kwargs"] = parse_pairs(values["teacher_kwargs"], "--teacher-kwargs")
    values["view_params"] = parse_pairs(values["view_params"], "--view-params")
    if "taps" in values:
        values["taps"] = tuple(values["taps"])

    from kdcache.distributed.env import worker_env
    from kdcache.teacher.config import BASE_SETTINGS, ExtractConfig
    from kdcache.teacher.extract import Progress, extract
    from kdcache.teacher.reading import HungImageError

    fixed = [name for name in BASE_SETTINGS if values.get(name, {}) != {}]
    if values.get("add") and fixed:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in fixed)
        raise UsageError(
            f"{flags}: fixed by the cache's base; leave it out, or extract into another folder without --add"
        )
    try:
        config = ExtractConfig(**values)
    except ValueError as error:
        raise UsageError(str(error)) from None
    env = worker_env()
    with ProgressReporter("extract", "views", visible=env.is_main and not as_json) as reporter:

        def show(progress: Progress) -> None:
            bad = f", {counted(progress.num_bad, 'bad image')}" if progress.num_bad else ""
            reporter.update(progress.num_records, progress.num_pending, f"limited by {progress.bottleneck}{bad}")

        def announce(source: "Source") -> None:
            if env.is_main and not as_json:
                print(source_text(source, str(config.data)), file=sys.stderr)

        try:
            report = extract(config, env=env, on_source=announce, on_note=reporter.note, on_progress=show)
        except HungImageError as error:
            # A thread is stuck inside a decoder and would keep the interpreter from ending.
            print(f"kdcache extract: error: {error}", file=sys.stderr, flush=True)
            os._exit(1)
    if as_json:
        print_json(_as_json(report))
    elif env.is_main or report.base is not None:
        print(_summary(report, config.out))
    return 0


def source_text(source: "Source", data: str) -> str:
    """What was found: images, what was passed over, labels and where they are from, classes."""
    images = source.images
    bare = [image.key for image in images if image.label < 0]
    lines = [f"{data}: {counted(len(images), 'image')}"]
    if any(source.passed_over.values()):
        lines.append(f"  passed over: {source.passed_over_text()}")
    if len(bare) == len(images):
        lines.append("  labels: none; students can be trained on the teacher alone")
    elif bare:
        lines.append(
            f"  labels: {len(images) - len(bare)} of {len(images)}, from {source.label_source}; the first without is "
            f"{bare[0]!r}"
        )
    else:
        lines.append(f"  labels: all, from {source.label_source}")
    if num_classes := source.num_classes:
        names = [f"{index} {name}" for index, name in enumerate(source.class_names)]
        shown = names if len(names) <= _MAX_CLASSES else [*names[: _MAX_CLASSES - 1], "…", names[-1]]
        lines.append(f"  classes: {num_classes}" + (f": {', '.join(shown)}" if shown else ", by number"))
    return "\n".join(lines)


def _as_json(report: "ExtractReport") -> dict[str, Any]:
    return {
        "finished": report.base is not None,
        "groups": list(report.groups),
        "shards_written": report.num_shards,
        "shards_skipped": report.num_skipped,
        "views_written": report.num_records,
        "seconds": report.seconds,
        "times": asdict(report.times),
        "num_bad": report.base.num_bad if report.base else None,
    }


def _summary(report: "ExtractReport", out: Path) -> str:
    lines: list[str] = []
    if report.num_records:
        fractions = ", ".join(f"{stage} {fraction:.0%}" for stage, fraction in report.times.shares().items())
        rate = report.num_records / report.seconds
        lines.append(
            f"{out}: {report.num_records} views in {report.seconds:.1f} s ({rate:.1f} views/s), limited by "
            f"{report.times.bottleneck} ({fractions})"
        )
    base = report.base
    if base is None:
        lines.append(
            f"{out}: this worker is done and some shards are still pending: wait for the other workers, "
            "or run the same command again"
        )
        return "\n".join(lines)
    if not report.num_shards:
        lines.append(f"{out}: nothing was pending, all {report.num_skipped} shards are there")
    lines.append(
        f"{out}: {counted(base.num_samples, 'image')} x {counted(base.fingerprint.views.num_views, 'view')} in "
        f"{counted(len(base.shards), 'shard')}"
        + (f", {counted(base.num_bad, 'bad image')} (see {out / 'ledger'})" if base.num_bad else "")
    )
    for name, group in report.groups.items():
        for column in group.fingerprint.columns:
            known = group.columns.get(column.name)
            cost = fidelity_text(known.fidelity) if known is not None else ""
            lines.append(f"  {name}/{column.name}: {size_text(group.part_bytes(column.name))}{cost}")
    lines.append(f"next: kdcache verify {out}")
    return "\n".join(lines)
