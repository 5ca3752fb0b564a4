"""Check a whole cache: completeness, checksums, shapes, keys, finite values. One line per fault; exit code 1 if any."""

import argparse
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdcache.cli.data_flags import add_data
from kdcache.cli.parser import refuse_ignored
from kdcache.cli.places import PLACE_HELP, place
from kdcache.cli.progress import ProgressReporter
from kdcache.cli.text import counted, print_json, size_text
from kdcache.errors import UsageError

if TYPE_CHECKING:
    from kdcache.cache.cache import Cache
    from kdcache.cache.group import Group
    from kdcache.cache.paths import CachePaths
    from kdcache.cache.verify import Fault

USAGE = "CACHE [options]"
EXAMPLE = """examples:
  kdcache verify caches/inet
  kdcache verify caches/inet --group cait-s24-224  the images and this group only
  kdcache verify caches/inet --rerun-teacher 8     compare 8 images with a fresh forward of each teacher
  kdcache verify caches/inet --source imagenet/train   have images changed or gone since?
  kdcache verify caches/inet --repair              move damaged shards aside; the same extract writes them again"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument("cache", type=place, metavar="CACHE", help=f"the cache: a {PLACE_HELP}")
    parser.add_argument("--group", metavar="NAME", help="check this group besides the images (default: all)")
    repair = parser.add_argument_group("repairing").add_mutually_exclusive_group()
    repair.add_argument("--repair", action="store_true", help="move damaged shards aside for the same extract to redo")
    repair.add_argument("--rebuild", action="store_true", help="make indexes and manifests again from the tars first")
    parser.add_argument(
        "--accept-loss",
        action="store_true",
        help="with --rebuild: continue without ledgers of bad images that are gone",
    )
    origin = parser.add_argument_group("against the source")
    add_data(origin, "--source", help="read every image there again and compare it with the one that was extracted")
    fresh = parser.add_argument_group("against the teacher")
    fresh.add_argument(
        "--rerun-teacher", type=int, metavar="N", default=0, help="compare N images with a fresh forward"
    )
    fresh.add_argument("--teacher-weights", metavar="W", help="hub, random or a file (default: as in the manifest)")
    add_data(fresh, "--data", help="the source, for a cache that refers to its images")
    fresh.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Verify."""
    from kdcache.cache.cache import open_cache
    from kdcache.cache.places import writing_paths
    from kdcache.cli.remedies import fault_line

    fresh = {"--teacher-weights": arguments.teacher_weights, "--data": arguments.data}
    refuse_ignored(fresh, without="--rerun-teacher", given=arguments.rerun_teacher)
    if arguments.accept_loss and not arguments.rebuild:
        raise UsageError("--accept-loss goes with --rebuild")
    if arguments.rebuild and not isinstance(arguments.cache, Path):
        raise UsageError(
            f"{arguments.cache}: --rebuild reads all tars on a local disk; copy the cache there, rebuild it, and copy "
            "the indexes and manifests back"
        )
    if arguments.rebuild:
        _rebuild(arguments.cache, arguments.group, accept_loss=arguments.accept_loss)
    started = time.perf_counter()
    cache = open_cache(arguments.cache)
    groups = list(cache.groups.values()) if arguments.group is None else [cache.group(arguments.group)]
    faults = _check(cache, groups, visible=not arguments.json)
    worst = None
    if arguments.rerun_teacher and not faults:
        worst, fresh_faults = _rerun(cache, groups, arguments)
        faults += fresh_faults
    if arguments.source is not None:
        faults += _compare_source(cache, arguments.source, visible=not arguments.json)
    result = _result(cache, groups, faults, time.perf_counter() - started, worst)
    if arguments.json:
        print_json(result)
    else:
        for fault in faults:
            print(fault_line(fault))
        _print_summary(cache, faults, result)
    if arguments.repair and faults:
        _repair(cache, writing_paths(arguments.cache), faults)
    return 1 if faults else 0


def _check(cache: "Cache", groups: "list[Group]", *, visible: bool) -> "list[Fault]":
    from kdcache.cache.verify import verify_base_shard, verify_group_shard, verify_whole

    faults: list[Fault] = []
    shards = cache.manifest.shards
    total = len(shards) * (1 + len(groups))
    with ProgressReporter("verify", "shards", visible=visible) as reporter:
        for done, shard in enumerate(shards, start=1):
            faults += verify_base_shard(cache, shard)
            for group in groups:
                faults += verify_group_shard(cache, group, shard)
            reporter.update(done * (1 + len(groups)), total, counted(len(faults), "fault"))
    return faults + list(verify_whole(cache))


def _compare_source(cache: "Cache", data: str, *, visible: bool) -> "list[Fault]":
    from kdcache.teacher.source_faults import source_faults

    total = cache.manifest.num_samples
    with ProgressReporter("verify", "source images", visible=visible) as reporter:
        return list(source_faults(cache, data, on_image=lambda done: reporter.update(done, total, "")))


def _rerun(cache: "Cache", groups: "list[Group]", arguments: argparse.Namespace) -> "tuple[float, list[Fault]]":
    from kdcache.distributed.env import worker_env
    from kdcache.distributed.process_group import choose_device
    from kdcache.teacher.rerun import rerun_teacher

    results = [
        result
        for group in groups
        for result in rerun_teacher(
            cache,
            group,
            arguments.rerun_teacher,
            weights=arguments.teacher_weights,
            data=arguments.data,
            device=choose_device(arguments.device, worker_env()),
        )
    ]
    worst = max((result.relative_error for result in results), default=0.0)
    return worst, [fault for result in results if (fault := result.fault()) is not None]


def _rebuild(folder: Path, only: str | None, *, accept_loss: bool) -> None:
    from kdcache.cache.base import BaseFingerprint
    from kdcache.cache.group import GroupFingerprint
    from kdcache.cache.job import Job
    from kdcache.cache.paths import CachePaths
    from kdcache.cache.rebuild import rebuild_base, rebuild_group
    from kdcache.distributed.env import worker_env

    paths, job_id, lost = CachePaths(folder), worker_env().job_id, list[str]()
    if only is None:
        base_job = Job(paths, job_id, BaseFingerprint)
        try:
            _, lost = rebuild_base(base_job, accept_loss=accept_loss)
        finally:
            base_job.close()
    groups = paths.group_names() if only is None else [only]
    for name in groups:
        group_job = Job(paths.group(name), job_id, GroupFingerprint)
        try:
            rebuild_group(group_job, paths)
        finally:
            group_job.close()
    for name in lost:
        print(f"{paths.shard('ledger', name)}: lost; it counts the bad images, without their names and reasons")
    what = [*(["the images"] if only is None else []), *groups]
    print(f"{folder}: rebuilt index and manifest of {', '.join(what)} from their tars")


def _repair(cache: "Cache", paths: "CachePaths", faults: "list[Fault]") -> None:
    from kdcache.cache.base import BaseFingerprint
    from kdcache.cache.group import GroupFingerprint
    from kdcache.cache.job import Job
    from kdcache.cache.repair import move_aside_base, move_aside_group
    from kdcache.distributed.env import worker_env
    from kdcache.errors import Remedy

    damaged: dict[str, set[str]] = {}
    for fault in faults:
        if fault.shard and fault.remedy is Remedy.REPAIR:
            damaged.setdefault(fault.group, set()).add(fault.shard)
    if not damaged:
        print("nothing to repair by extracting again; follow the remedies above")
        return
    job_id = worker_env().job_id
    for name, shards in sorted(damaged.items()):
        if name:
            job = Job(paths.group(name), job_id, GroupFingerprint)
            move_aside_group(job, cache.group(name).manifest.fingerprint, sorted(shards))
        else:
            job = Job(paths, job_id, BaseFingerprint)
            move_aside_base(job, cache.manifest.fingerprint, sorted(shards))
        job.close()
        aside = job.paths.where(job.paths.job / "damaged")
        print(f"{name or 'images'}: {counted(len(shards), 'shard')} moved to {aside}: {', '.join(sorted(shards))}")
    print("now run the same `kdcache extract` command again, it writes only these")


def _result(
    cache: "Cache", groups: "Iterable[Group]", faults: "list[Fault]", seconds: float, worst: float | None
) -> dict[str, Any]:
    base = cache.manifest
    sizes = [facts.size_bytes for shard in base.shards for facts in shard.files.values()]
    sizes += [facts.size_bytes for group in groups for shard in group.manifest.shards for facts in shard.files.values()]
    return {
        "ok": not faults,
        "faults": [{**vars(fault), "remedy": fault.remedy.name.lower()} for fault in faults],
        "groups": [group.name for group in groups],
        "shards": len(base.shards),
        "records": base.num_records,
        "bytes": sum(sizes),
        "seconds": seconds,
        "rerun_worst_relative_error": worst,
    }


def _print_summary(cache: "Cache", faults: "list[Fault]", result: dict[str, Any]) -> None:
    manifest = cache.manifest
    what = f"{counted(len(manifest.shards), 'shard')}, {counted(manifest.num_records, 'view')}, "
    what += f"images and {counted(len(result['groups']), 'group')}"
    what += f" ({', '.join(result['groups'])})" if result["groups"] else ""
    what += f", {size_text(result['bytes'])} in {result['seconds']:.1f} s"
    if result["rerun_worst_relative_error"] is not None:
        what += f"; a fresh teacher differs by at most {result['rerun_worst_relative_error']:.2g}"
    if manifest.num_bad:
        what += f"; {counted(manifest.num_bad, 'bad image')} in the ledger (`kdcache show {cache.paths}`)"
    root = cache.paths
    print(f"{root}: {counted(len(faults), 'fault')} in {what}" if faults else f"{root}: OK: {what}")
