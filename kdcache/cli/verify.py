"""Check a whole cache: completeness, checksums, shapes, keys, finite values. One line per fault; exit code 1 if any."""

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING

from kdcache.cli.progress import ProgressReporter
from kdcache.cli.text import counted, print_json, size_text

if TYPE_CHECKING:
    from kdcache.cache.cache import Cache
    from kdcache.cache.verify import Fault

USAGE = "CACHE [options]"
EXAMPLE = """examples:
  kdcache verify caches/inet
  kdcache verify caches/inet --rerun-teacher 8     ask the teacher again about 8 images
  kdcache verify caches/inet --repair              set damaged shards aside; the same extract writes them again"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument("cache", type=Path, metavar="CACHE", help="the cache folder")
    mend = parser.add_argument_group("mending").add_mutually_exclusive_group()
    mend.add_argument("--repair", action="store_true", help="set damaged shards aside for the same extract to redo")
    mend.add_argument("--rebuild", action="store_true", help="make index and manifest again from the tars first")
    fresh = parser.add_argument_group("against the teacher")
    fresh.add_argument(
        "--rerun-teacher", type=int, metavar="N", default=0, help="compare N images with a fresh forward"
    )
    fresh.add_argument("--teacher-weights", metavar="W", help="hub, random or a file (default: as in the manifest)")
    fresh.add_argument("--data", help="the source, for a cache that refers to its images")
    fresh.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Verify."""
    from kdcache.cache.cache import open_cache

    if arguments.rebuild:
        _rebuild(arguments.cache)
    started = time.perf_counter()
    cache = open_cache(arguments.cache)
    faults = _check(cache, visible=not arguments.json)
    worst = None
    if arguments.rerun_teacher and not faults:
        worst, fresh_faults = _rerun(cache, arguments)
        faults += fresh_faults
    manifest = cache.manifest
    size_bytes = sum(facts.size_bytes for shard in manifest.shards for facts in shard.files.values())
    if arguments.json:
        print_json(
            {
                "ok": not faults,
                "faults": [vars(fault) for fault in faults],
                "shards": len(manifest.shards),
                "records": manifest.num_records,
                "bytes": size_bytes,
                "seconds": time.perf_counter() - started,
                "rerun_worst_relative_error": worst,
            }
        )
    else:
        for fault in faults:
            print(fault)
        _print_summary(cache, faults, size_bytes, time.perf_counter() - started, worst)
    if arguments.repair and faults:
        _repair(cache, faults)
    return 1 if faults else 0


def _check(cache: "Cache", *, visible: bool) -> "list[Fault]":
    from kdcache.cache.verify import verify_shard, verify_whole

    faults: list[Fault] = []
    shards = cache.manifest.shards
    with ProgressReporter("verify", "shards", visible=visible) as reporter:
        for done, shard in enumerate(shards, start=1):
            faults += verify_shard(cache, shard)
            reporter.update(done, len(shards), counted(len(faults), "fault"))
    return faults + list(verify_whole(cache))


def _rerun(cache: "Cache", arguments: argparse.Namespace) -> "tuple[float, list[Fault]]":
    from kdcache.distributed.env import worker_env
    from kdcache.distributed.process_group import choose_device
    from kdcache.teacher.rerun import rerun_teacher

    results = list(
        rerun_teacher(
            cache,
            arguments.rerun_teacher,
            weights=arguments.teacher_weights,
            data=arguments.data,
            device=choose_device(arguments.device, worker_env()),
        )
    )
    worst = max((result.relative_error for result in results), default=0.0)
    return worst, [fault for result in results if (fault := result.fault()) is not None]


def _rebuild(folder: Path) -> None:
    from kdcache.cache.job import CacheJob
    from kdcache.cache.repair import rebuild
    from kdcache.distributed.env import worker_env

    job = CacheJob(folder, worker_env().job_id)
    try:
        manifest = rebuild(job)
    finally:
        job.close()
    print(f"{folder}: rebuilt index and manifest of {len(manifest.shards)} shards from their tars")


def _repair(cache: "Cache", faults: "list[Fault]") -> None:
    from kdcache.cache.job import CacheJob
    from kdcache.cache.repair import set_aside
    from kdcache.cache.verify import REPAIR
    from kdcache.distributed.env import worker_env

    shards = sorted({fault.shard for fault in faults if fault.shard and fault.remedy == REPAIR})
    if not shards:
        print("nothing to repair by extracting again; the remedies above say what helps")
        return
    job = CacheJob(cache.paths.root, worker_env().job_id)
    try:
        set_aside(job, cache.manifest.fingerprint, shards)
    finally:
        job.close()
    print(
        f"{counted(len(shards), 'shard')} set aside in {job.paths.job / 'damaged'}: {', '.join(shards)}; now run the "
        "same `kdcache extract` command again, it writes only these"
    )


def _print_summary(cache: "Cache", faults: "list[Fault]", size_bytes: int, seconds: float, worst: float | None) -> None:
    manifest = cache.manifest
    what = f"{counted(len(manifest.shards), 'shard')}, {counted(manifest.num_records, 'record')}, "
    what += f"{size_text(size_bytes)} in {seconds:.1f} s"
    if worst is not None:
        what += f"; a fresh teacher differs by at most {worst:.2g}"
    if manifest.num_bad:
        what += f"; {counted(manifest.num_bad, 'bad image')} in the ledger (`kdcache show {cache.paths.root}`)"
    print(
        f"{cache.paths.root}: {counted(len(faults), 'fault')} in {what}"
        if faults
        else f"{cache.paths.root}: good: {what}"
    )
