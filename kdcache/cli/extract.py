"""Run a frozen teacher over images once and keep its outputs in a cache.

Running the same command again resumes where it stopped. Under torchrun every worker takes its part of the shards,
with --engine ray actors of a Ray cluster take them one by one, and those of actors that die again.
With --add another teacher, precision, tap or codec, or the pixels themselves, join a cache that is there, on its views.
"""

import argparse
import os
import sys
from typing import TYPE_CHECKING, Any

from kdcache.cli.extract_text import agreement_text, caution_text, next_text, report_facts, source_text, summary_text
from kdcache.cli.parser import refuse_ignored
from kdcache.cli.pass_flags import add_images, add_kept, add_teacher, add_views, parsed_values
from kdcache.cli.places import PLACE_HELP, place
from kdcache.cli.progress import ProgressReporter
from kdcache.cli.text import counted, print_json
from kdcache.errors import UsageError

if TYPE_CHECKING:
    from kdcache.distributed.env import WorkerEnv
    from kdcache.images import Source
    from kdcache.teacher.config import ExtractConfig
    from kdcache.teacher.estimate import PassEstimate
    from kdcache.teacher.extract import ExtractReport
    from kdcache.teacher.ray import RayCluster
    from kdcache.teacher.worker import Progress

USAGE = "(--data DATA --teacher NAME | --add [--teacher NAME]) --out DIR [options]"
EXAMPLE = """examples:
  kdcache extract --data 'imagenet/train-{0000..1023}.tar' --teacher cait_s24_224 --tap blocks.-1/patch \\
      --tap head/logits --codec int8 --views 2 --view-recipe rrc-flip --out caches/inet
  kdcache extract --add --teacher deit_small_patch16_224 --precision fp32 --out caches/inet
  kdcache extract --add --pixels raw --out caches/inet"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags; a flag that is not given keeps the default of ExtractConfig."""
    add_images(parser, note="; with --add only where the cache refers to its images")
    add_teacher(parser)
    kept = add_kept(parser)
    kept.add_argument(
        "--images",
        choices=("embed", "reference"),
        metavar="I",
        default=argparse.SUPPRESS,
        help="embed the images, or reference them (embed)",
    )
    add_views(parser)
    _add_output(parser)


def _add_output(parser: argparse.ArgumentParser) -> None:
    default = argparse.SUPPRESS
    out = parser.add_argument_group("output and engine")
    out.add_argument("--out", type=place, required=True, metavar="DIR", help=f"the cache: a {PLACE_HELP}")
    out.add_argument(
        "--add",
        action="store_true",
        default=default,
        help="add to a cache, on its views; changes no file",
    )
    out.add_argument("--group", metavar="NAME", default=default, help="of the teacher's columns (the teacher's name)")
    out.add_argument("--split", default=default, help="word in front of shard names (train)")
    out.add_argument("--shard-samples", type=int, metavar="N", default=default, help="images in a shard (512)")
    out.add_argument("--threads", type=int, metavar="N", default=default, help="reading threads (all cores)")
    out.add_argument(
        "--no-space-check", action="store_false", dest="check_space", default=default, help="start on a disk too small"
    )
    out.add_argument(
        "--accept-versions", action="store_true", default=default, help="resume with other library versions"
    )
    out.add_argument("--json", action="store_true", help="print the result as JSON")
    out.add_argument("--engine", choices=("local", "ray"), default="local", help="ray gives the shards to Ray actors")
    out.add_argument("--ray-address", metavar="A", help="HOST:PORT, auto or local (RAY_ADDRESS, or local)")
    out.add_argument("--ray-actors", type=int, metavar="N", help="how many (one a GPU; without GPUs one a machine)")


def run(arguments: argparse.Namespace) -> int:
    """Extract."""
    values: dict[str, Any] = {**vars(arguments)}
    as_json = values.pop("json")
    cluster = _cluster(values.pop("engine"), values.pop("ray_address"), values.pop("ray_actors"))
    values |= parsed_values(values)

    from kdcache.cache.cache import open_cache
    from kdcache.distributed.env import worker_env
    from kdcache.teacher.agreement import label_agreement
    from kdcache.teacher.config import BASE_SETTINGS, ExtractConfig

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
    report = _extracted(config, env, cluster, as_json=as_json)
    found = label_agreement(open_cache(config.out)) if report.base is not None else []
    found = [each for each in found if each.column.partition("/")[0] in report.groups]
    if as_json:
        print_json(report_facts(report, found))
    else:
        lines = [
            summary_text(report, config.out, env.text),
            *map(agreement_text, found),
            *next_text(report, config.out),
        ]
        print("\n".join(lines))
        if caution := caution_text(found, is_random=config.teacher_weights == "random"):
            print(caution, file=sys.stderr)
    return 0


def _extracted(
    config: "ExtractConfig", env: "WorkerEnv", cluster: "RayCluster | None", *, as_json: bool
) -> "ExtractReport":
    """The pass, by this process or on a cluster, with what it shows meanwhile."""
    from kdcache.teacher.extract import extract
    from kdcache.teacher.reading import HungImageError

    with ProgressReporter("extract", "views", visible=env.is_main and not as_json) as reporter:

        def show(progress: "Progress") -> None:
            bad = f", {counted(progress.num_bad, 'bad image')}" if progress.num_bad else ""
            reporter.update(progress.num_records, progress.num_pending, f"limited by {progress.bottleneck}{bad}")

        def announce(source: "Source", estimate: "PassEstimate | None") -> None:
            print(source_text(source, str(config.data), estimate), file=sys.stderr)

        on_source = announce if env.is_main and not as_json else None
        if cluster is not None:
            from kdcache.teacher.ray import extract_on_ray

            return extract_on_ray(config, cluster, on_source=on_source, on_note=reporter.note, on_progress=show)
        if env.text and not as_json:
            print(f"{env.text}: takes one of every {env.world_size} shards", file=sys.stderr)
        try:
            return extract(config, env=env, on_source=on_source, on_note=reporter.note, on_progress=show)
        except HungImageError as error:
            # A thread is stuck inside a decoder and would keep the interpreter from ending.
            print(f"kdcache extract: error: {error}", file=sys.stderr, flush=True)
            os._exit(1)


def _cluster(engine: str, address: str | None, num_actors: int | None) -> "RayCluster | None":
    """The cluster of a pass; None for one in this process. Raises: UsageError."""
    if engine == "local":
        refuse_ignored({"--ray-address": address, "--ray-actors": num_actors}, without="--engine ray", given=False)
        return None
    from kdcache.teacher.ray import RayCluster

    try:
        return RayCluster(address=address, num_actors=num_actors)
    except ValueError as error:
        raise UsageError(str(error)) from None
