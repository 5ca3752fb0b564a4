"""What does a step cost with the teacher in the loop, and from the cache?

The same `kdcache train` twice a round, with and without `--teacher online`, on the same views, one after the other and
each in a process of its own; rounds begin with either in turn. Every step after the warm-up is one repeat.
"""

import argparse
import itertools
import shutil
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.command import CommandRunner
from benchmarks.record import environment, spread, write
from kdcache.distributed.env import worker_env
from kdcache.distributed.process_group import choose_device
from kdcache.errors import KdcacheError
from kdcache.reports.tables import text_table
from kdcache.train.folder import read_summary
from kdcache.train.metrics import read_metrics

_KINDS = ("cache", "online")
_MB = 1 << 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument("--data", default="digits", help="as in kdcache extract (digits)")
    parser.add_argument("--limit", type=int, default=64, help="images, so many in a run (64)")
    parser.add_argument("--image-size", type=int, default=112, help="side of the views (112)")
    parser.add_argument("--teacher", default="vit_small_patch16_224", help="timm model, random weights")
    parser.add_argument("--student", default="deit_tiny_patch16_224", help="timm model")
    parser.add_argument("--method", default="lift")
    parser.add_argument("--codec", default="fp16")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--warm-up", type=int, default=2, help="steps of a run that are not counted (2)")
    parser.add_argument("--rounds", type=int, default=4, help="runs of each (4)")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--scratch", type=Path, help="folder for cache and runs; they are removed (a temporary one)")
    parser.add_argument("--out", type=Path, help="JSON file")


def run(arguments: argparse.Namespace) -> int:
    """Measure."""
    scratch = Path(tempfile.mkdtemp(dir=arguments.scratch))
    device = choose_device(arguments.device, worker_env())
    try:
        found = _measure(arguments, scratch, str(device))
    except KdcacheError as error:
        print(f"online: {error}", file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(scratch)
    result: dict[str, Any] = {
        "benchmark": "online",
        **environment(device),
        "settings": {name: str(value) for name, value in vars(arguments).items()},
        **found,
    }
    rows = [
        [
            kind,
            *(f"{result[kind]['step_ms'][part]:.1f}" for part in ("median", "p20", "p80")),
            f"{result[kind]['wait_ms']['median']:.2f}",
            f"{result[kind]['peak_memory_bytes'] / _MB:.0f}",
            f"{result[kind]['target_bytes_per_view']:,}",
        ]
        for kind in _KINDS
    ]
    print(text_table(["", "step, ms", "p20", "p80", "waiting, ms", "peak memory, MB", "bytes a view"], rows))
    ratio = result["online_over_cache"]
    print(f"online / cache, step by step: {ratio['median']:.2f} ({ratio['p20']:.2f} to {ratio['p80']:.2f})")
    if arguments.out is not None:
        write(arguments.out, result)
    return 0


def _measure(arguments: argparse.Namespace, scratch: Path, device: str) -> dict[str, Any]:
    runner = CommandRunner()
    runner.run(_extract_words(arguments, scratch, device), scratch / "extract.log")
    steps: dict[str, list[tuple[float, float]]] = {kind: [] for kind in _KINDS}
    summaries: dict[str, list[dict[str, Any]]] = {kind: [] for kind in _KINDS}
    for number in range(arguments.rounds):
        for kind in _KINDS[:: -1 if number % 2 else 1]:
            out = scratch / f"{kind}-{number}"
            runner.run(_train_words(arguments, scratch, out, kind, device), scratch / f"{kind}-{number}.log")
            steps[kind] += step_times(read_metrics(out, "step"), arguments.batch_size)[arguments.warm_up :]
            summary = read_summary(out)
            assert summary is not None
            summaries[kind].append(summary)
    pairs = zip(steps["online"], steps["cache"], strict=True)
    return {
        **{
            kind: {
                "step_ms": spread([step for step, _ in steps[kind]]),
                "wait_ms": spread([wait for _, wait in steps[kind]]),
                "peak_memory_bytes": statistics.median(each["peak_memory_bytes"] for each in summaries[kind]),
                "target_bytes_per_view": summaries[kind][0]["target_bytes_per_view"],
            }
            for kind in _KINDS
        },
        "online_over_cache": spread([online / cache for (online, _), (cache, _) in pairs]),
    }


def step_times(entries: list[dict[str, Any]], batch_size: int) -> list[tuple[float, float]]:
    """Milliseconds of each step, and how much of it was waiting for data.

    Args:
        entries: The metrics of every step; rates in them are those since the run's beginning.
        batch_size: Images a step.
    """
    ends = [1000 * entry["step"] * batch_size / entry["images_per_s"] for entry in entries]
    waits = [end * entry["stall_share"] for end, entry in zip(ends, entries, strict=True)]
    return [
        (end - before, wait - waited)
        for (before, end), (waited, wait) in zip(
            itertools.pairwise([0.0, *ends]), itertools.pairwise([0.0, *waits]), strict=True
        )
    ]


def _extract_words(arguments: argparse.Namespace, scratch: Path, device: str) -> list[str]:
    return [
        *("extract", "--data", arguments.data, "--limit", str(arguments.limit), "--out", str(scratch / "cache")),
        *("--teacher", arguments.teacher, "--teacher-weights", "random", "--image-size", str(arguments.image_size)),
        *("--tap", f"blocks.-1/patch:{arguments.codec}", "--tap", "head/logits", "--pixels", "raw"),
        *("--view-recipe", "rrc-flip", "--device", device),
    ]


def _train_words(arguments: argparse.Namespace, scratch: Path, out: Path, kind: str, device: str) -> list[str]:
    return [
        *("train", "--cache", str(scratch / "cache"), "--out", str(out), "--student", arguments.student),
        *("--method", arguments.method, "--batch-size", str(arguments.batch_size), "--device", device),
        # How long a step takes does not depend on what its labels mean.
        *("--teacher", kind, "--set", "log_every=1", "--set", "same_classes=true"),
    ]
