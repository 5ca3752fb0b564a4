"""What a rank of two holds of a student between two steps, and at most: all weights (DDP), or half of them (FSDP2).

Each rank is a process on this machine's CPU. Nothing is said of speed: two processes that share a machine have no
network between them.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.record import environment, write
from kdcache.distributed.env import RESTART_VARIABLE
from kdcache.reports.tables import text_table

_MIB = 1 << 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument("--student", default="vit_base_patch16_224", help="timm name")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=2, help="images a rank")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--out", type=Path, help="JSON file")


def run(arguments: argparse.Namespace) -> int:
    """Measure."""
    settings = {name: getattr(arguments, name) for name in ("student", "image_size", "batch_size", "steps")}
    result: dict[str, Any] = {
        "benchmark": "parallel",
        **environment(torch.device("cpu")),
        "settings": {**settings, "optimizer": "adamw", "precision": "fp32", "world_size": 2},
        "ranks": {parallel: _ranks(parallel, settings) for parallel in ("ddp", "fsdp")},
    }
    _print(result)
    if arguments.out is not None:
        write(arguments.out, result)
    return 0


def _ranks(parallel: str, settings: dict[str, Any]) -> list[dict[str, int]]:
    """Bytes that each of two ranks holds."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "benchmarks.parallel_rank"]
        subprocess.run(
            [sys.executable, *words, parallel, json.dumps(settings), folder],
            check=True,
            # Freed memory goes back to the system at once, so that a process is as large as what it holds.
            env={**os.environ, RESTART_VARIABLE: "1", "MALLOC_MMAP_THRESHOLD_": "65536"},
        )
        return [json.loads((Path(folder) / f"{rank}.json").read_bytes()) for rank in range(2)]


def _print(result: dict[str, Any]) -> None:
    names = list(result["ranks"]["ddp"][0])
    rows = [
        [parallel, str(rank), *(f"{held[name] / _MIB:.0f}" for name in names)]
        for parallel, ranks in result["ranks"].items()
        for rank, held in enumerate(ranks)
    ]
    print(text_table(["MiB", "rank", *names], rows))
