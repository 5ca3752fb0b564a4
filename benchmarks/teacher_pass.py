"""What does a cached pass cost on top of the bare teacher?

Each repeat times, one after the other: bare forwards of the frozen teacher on views that are already in memory, and the
whole pass `kdcache extract` makes (read, decode, cut views, forward, encode, statistics, hash, fsync). The ratio of the
two holds on a shared machine; the absolute times do not.
"""

import argparse
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import environment, spread, write
from kdcache.distributed.env import worker_env
from kdcache.distributed.process_group import choose_device
from kdcache.models import TimmModel, parse_tap
from kdcache.reports.tables import text_table
from kdcache.teacher.config import ExtractConfig
from kdcache.teacher.extract import extract
from kdcache.teacher.model import Teacher


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument("--data", default="digits", help="as in kdcache extract (digits)")
    parser.add_argument("--teacher", default="deit_small_patch16_224", help="timm model (deit_small_patch16_224)")
    parser.add_argument("--codec", default="fp16")
    parser.add_argument("--limit", type=int, default=64, help="images (64)")
    parser.add_argument("--views", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--scratch", type=Path, help="folder for the caches; they are removed again (a temporary one)")
    parser.add_argument("--out", type=Path, help="JSON file")


def run(arguments: argparse.Namespace) -> int:
    """Measure."""
    scratch = Path(tempfile.mkdtemp(dir=arguments.scratch))
    bare, whole, shares = [], [], []
    device = choose_device(arguments.device, worker_env())
    teacher = Teacher(TimmModel(arguments.teacher), "random", image_size=None, seed=0, device=device, precision="auto")
    teacher.set_taps([parse_tap("blocks.-1/patch"), parse_tap("head/logits")])
    num_views = arguments.limit * arguments.views
    pixels = np.random.default_rng(0).integers(0, 256, (arguments.batch_size, *(teacher.image_size,) * 2, 3), np.uint8)
    try:
        for repeat in range(arguments.repeats + 1):
            bare_s = _bare(teacher, pixels, num_views)
            report = extract(_config(arguments, scratch / f"{repeat}"))
            shutil.rmtree(scratch / f"{repeat}")
            if repeat:  # the first warms up
                bare.append(num_views / bare_s)
                whole.append(num_views / report.seconds)
                shares.append(report.times.shares())
    finally:
        shutil.rmtree(scratch)
    ratios = [one / two for one, two in zip(whole, bare, strict=True)]
    result: dict[str, Any] = {
        "benchmark": "teacher_pass",
        **environment(device),
        "settings": {name: str(value) for name, value in vars(arguments).items()},
        "precision": teacher.precision,
        "bare_views_per_s": spread(bare),
        "pass_views_per_s": spread(whole),
        "pass_over_bare": spread(ratios),
        "stage_shares": {stage: spread([share[stage] for share in shares]) for stage in shares[0]},
    }
    rows = [
        [name, *(f"{result[key][part]:.3g}" for part in ("median", "p20", "p80"))]
        for name, key in (
            ("bare teacher, views/s", "bare_views_per_s"),
            ("whole pass, views/s", "pass_views_per_s"),
            ("pass / bare", "pass_over_bare"),
        )
    ]
    print(text_table(["", "median", "p20", "p80"], rows))
    if arguments.out is not None:
        write(arguments.out, result)
    return 0


def _bare(teacher: Teacher, pixels: np.ndarray, num_views: int) -> float:
    started = time.perf_counter()
    for first in range(0, num_views, len(pixels)):
        teacher.run(pixels[: min(len(pixels), num_views - first)])
    return time.perf_counter() - started


def _config(arguments: argparse.Namespace, out: Path) -> ExtractConfig:
    return ExtractConfig(
        data=arguments.data,
        out=out,
        teacher=arguments.teacher,
        teacher_weights="random",
        codec=arguments.codec,
        views=arguments.views,
        view_recipe="rrc-flip",
        limit=arguments.limit,
        batch_size=arguments.batch_size,
        device=arguments.device,
    )
