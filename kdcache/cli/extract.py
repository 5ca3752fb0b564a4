"""Run a frozen teacher over images once and keep what it says in a cache.

Running the same command again goes on where it stopped. Under torchrun every worker takes its share of the shards.
"""

import argparse
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdcache.cli.progress import ProgressReporter
from kdcache.cli.text import codec_names, counted, print_json, size_text
from kdcache.config import parse_pairs
from kdcache.errors import UsageError

if TYPE_CHECKING:
    from kdcache.teacher.extract import ExtractReport

USAGE = "--data DATA --teacher NAME --out DIR [options]"
EXAMPLE = """example:
  kdcache extract --data 'imagenet/train-{0000..1023}.tar' --teacher cait_s24_224 --tap blocks.-1/patch \\
      --tap head/logits --codec int8 --views 2 --view-recipe rrc-flip --out caches/inet"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags; a flag that is not given keeps the default of ExtractConfig."""
    default = argparse.SUPPRESS
    data = parser.add_argument_group("images")
    data.add_argument("--data", required=True, help="folder of class folders, tars (.tar, .tar.gz, braces), or digits")
    data.add_argument("--limit", type=int, metavar="N", default=default, help="take N images only")
    data.add_argument(
        "--order", choices=("shuffle", "source"), default=default, help="order in the cache (default: shuffle)"
    )
    data.add_argument("--max-bad", type=float, metavar="SHARE", default=default, help="unusable images allowed (0.01)")
    data.add_argument("--image-timeout", type=float, metavar="S", default=default, dest="image_timeout_s", help="(120)")

    teacher = parser.add_argument_group("teacher")
    teacher.add_argument("--teacher", required=True, metavar="NAME", help="any timm model")
    teacher.add_argument("--teacher-weights", metavar="W", default=default, help="hub, random or a file (default: hub)")
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
        help="blocks.N/patch, blocks.N/prefix (N from 0, or negative from the end), head/logits; repeat for more",
    )
    names = ", ".join(codec_names())
    kept.add_argument("--codec", default=default, help=f"of token taps that name none (fp16), one of {names}")
    kept.add_argument("--max-error", type=float, metavar="E", default=default, help="refuse a codec that is worse")
    kept.add_argument("--images", choices=("embed", "reference"), default=default, help="copy the images? (embed)")
    kept.add_argument("--statistics", choices=("full", "light"), default=default, help="second moments too? (full)")

    views = parser.add_argument_group("views")
    views.add_argument("--views", type=int, metavar="K", default=default, help="views of each image (1)")
    views.add_argument("--view-recipe", choices=("eval", "rrc-flip"), default=default, help="how they are drawn (eval)")
    views.add_argument("--view-params", nargs="+", metavar="K=V", default=[], help="crop_pct, scale, ratio, flip, ...")
    views.add_argument("--image-size", type=int, metavar="S", default=default, help="side of the view (the teacher's)")
    views.add_argument("--interpolation", default=default, help="resize filter (the teacher's)")
    views.add_argument("--seed", type=int, default=default, help="of views, order and random weights (0)")

    out = parser.add_argument_group("output")
    out.add_argument("--out", type=Path, required=True, metavar="DIR", help="the cache")
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
    from kdcache.teacher.config import ExtractConfig
    from kdcache.teacher.extract import Progress, extract
    from kdcache.teacher.reading import HungImageError

    try:
        config = ExtractConfig(**values)
    except ValueError as error:
        raise UsageError(str(error)) from None
    env = worker_env()
    with ProgressReporter("extract", "views", visible=env.is_main and not as_json) as reporter:

        def show(progress: Progress) -> None:
            bad = f", {counted(progress.num_bad, 'bad image')}" if progress.num_bad else ""
            reporter.update(progress.num_records, progress.num_owed, f"limited by {progress.bottleneck}{bad}")

        try:
            report = extract(config, env=env, on_progress=show)
        except HungImageError as error:
            # A thread is stuck inside a decoder and would keep the interpreter from ending.
            print(f"kdcache extract: error: {error}", file=sys.stderr, flush=True)
            os._exit(1)
    if as_json:
        print_json(_as_json(report))
    elif env.is_main or report.manifest is not None:
        print(_summary(report, config.out))
    return 0


def _as_json(report: "ExtractReport") -> dict[str, Any]:
    finished = report.manifest is not None
    return {
        "finished": finished,
        "shards_written": report.num_shards,
        "shards_skipped": report.num_skipped,
        "views_written": report.num_records,
        "seconds": report.seconds,
        "times": asdict(report.times),
        "num_bad": report.manifest.num_bad if report.manifest else None,
    }


def _summary(report: "ExtractReport", out: Path) -> str:
    lines: list[str] = []
    if report.num_records:
        shares = ", ".join(f"{stage} {share:.0%}" for stage, share in report.times.shares().items())
        rate = report.num_records / report.seconds
        lines.append(
            f"{out}: {report.num_records} views in {report.seconds:.1f} s ({rate:.1f} views/s), limited by "
            f"{report.times.bottleneck} ({shares})"
        )
    manifest = report.manifest
    if manifest is None:
        lines.append(f"{out}: this worker is done; other workers still owe shards")
        return "\n".join(lines)
    if not report.num_shards:
        lines.append(f"{out}: nothing was owed, all {report.num_skipped} shards are there")
    facts = manifest.fingerprint
    lines.append(
        f"{out}: {counted(manifest.num_samples, 'image')} x {counted(facts.views.num_views, 'view')} in "
        f"{counted(len(manifest.shards), 'shard')}"
        + (f", {counted(manifest.num_bad, 'bad image')} (see {out / 'ledger'})" if manifest.num_bad else "")
    )
    for column in facts.columns:
        error = manifest.columns[column.name].fidelity.get("relative_error")
        cost = f", relative error {error:.2g}" if error is not None else ""
        lines.append(f"  {column.name}: {size_text(manifest.part_bytes(column.name))}{cost}")
    lines.append(f"next: kdcache verify {out}")
    return "\n".join(lines)
