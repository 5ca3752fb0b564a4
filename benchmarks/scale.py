"""What do opening, ordering, resuming and dividing a cache of 10,000 shards and 100 million images cost?

Writes real manifests of format 2 and files that are holes of the right sizes, and measures each stage in a process of
its own: seconds, and the most memory the process ever had. No record is read.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.record import environment, spread, write
from benchmarks.scale_cache import GROUP, SimulatedCache, write_simulated
from benchmarks.scale_stages import BATCH_SIZE, STAGES, WORLD_SIZE
from kdcache.cache.paths import CachePaths
from kdcache.reports.tables import text_table

_SHOWS = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument("--shards", type=int, default=10_000)
    parser.add_argument("--shard-samples", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=_SHOWS, help=f"of `kdcache show` ({_SHOWS})")
    parser.add_argument("--out", type=Path, help="JSON file")


def run(arguments: argparse.Namespace) -> int:
    """Measure."""
    simulated = SimulatedCache(num_shards=arguments.shards, shard_samples=arguments.shard_samples)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "cache"
        write_simulated(simulated, folder)
        paths = CachePaths(folder)
        manifests = {"base": paths.manifest, "group": paths.group(GROUP).manifest}
        result: dict[str, Any] = {
            "benchmark": "scale",
            **environment(torch.device("cpu")),
            "settings": {
                "shards": arguments.shards,
                "images": arguments.shards * arguments.shard_samples,
                "batch_size": BATCH_SIZE,
                "world_size": WORLD_SIZE,
            },
            "load_average": os.getloadavg()[0],
            "manifest_bytes": {name: path.stat().st_size for name, path in manifests.items()},
            "stages": {name: _stage(name, folder) for name in STAGES},
            "show_s": spread([_show(folder) for _ in range(arguments.repeats)]),
        }
    _print(result)
    if arguments.out is not None:
        write(arguments.out, result)
    return 0


def _stage(name: str, folder: Path) -> dict[str, Any]:
    words = [sys.executable, "-m", "benchmarks.scale_stages", name, str(folder)]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(done.stdout)
    seconds = {what: {**spread(values), "most": max(values)} for what, values in found["seconds"].items()}
    return {"seconds": seconds, "peak_bytes": found["peak_bytes"]}


def _show(folder: Path) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "kdcache", "show", str(folder)], stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began


def _print(result: dict[str, Any]) -> None:
    rows = [["kdcache show", f"{result['show_s']['median'] * 1000:,.1f}", "", ""]]
    for name, stage in result["stages"].items():
        peak = f"{stage['peak_bytes'] / 2**20:,.0f}"
        for what, value in stage["seconds"].items():
            median, most = (f"{value[each] * 1000:,.3f}" for each in ("median", "most"))
            rows.append([f"{name}: {what.removesuffix('_s')}", median, most, peak])
        if not stage["seconds"]:
            rows.append([name, "", "", peak])
    print(text_table(["stage", "median ms", "most ms", "peak MiB"], rows))
    sizes = result["manifest_bytes"]
    print(f"manifests: base {sizes['base'] / 1e6:.1f} MB, group {sizes['group'] / 1e6:.1f} MB")
