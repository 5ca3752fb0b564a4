"""The whole way in minutes, on 1,797 handwritten digits that come with scikit-learn.

Trains a small teacher, caches what it says (fp16 and int8 side by side), verifies the cache, trains students from it
and compares them. Prints every command it runs. Running it again into the same folder goes on where it stopped.
"""

import argparse
import json
import math
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from kdcache.cli.text import print_json, size_text
from kdcache.errors import KdcacheError

USAGE = "[--out DIR] [options]"
EXAMPLE = """example:
  kdcache demo --out runs/demo"""

# The models are so small that a second thread gains little, and where others use the cores, waiting for it at every
# operation costs more than tenfold (benchmarks/LOG.md).
_CPU_THREADS = 1
_STUDENT = ["img_size=16", "patch_size=4", "embed_dim=48", "depth=4", "num_heads=3"]
_RUNS = {
    "student alone": ["--method", "none"],
    "logits only": ["--method", "logit"],
    "Lift, fp16 cache": ["--method", "lift", "--codec", "fp16"],
    "Lift, int8 cache": ["--method", "lift", "--codec", "int8"],
    "WideLast, fp16 cache": ["--method", "widelast", "--codec", "fp16"],
}
_MEANING = """\
top-1          share of 360 held-out digits classified rightly, after the last epoch. One seed; the standard error is
               about {error:.1f} points, so smaller differences mean nothing here
images/s       views the student is trained on in a second, data waiting included
bytes/image    what is read from the cache for each view besides the image itself: the teacher's features and logits
peak memory    of the whole training process, PyTorch itself included. The teacher is in none of them"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument(
        "--out", type=Path, default=Path("runs/demo"), metavar="DIR", help="folder (default: runs/demo)"
    )
    parser.add_argument("--epochs", type=int, default=20, metavar="N", help="of each student (20)")
    parser.add_argument("--teacher-epochs", type=int, default=30, metavar="N", help="of the teacher (30)")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON at the end")


def run(arguments: argparse.Namespace) -> int:
    """Run the demo."""
    from kdcache.durable import make_folder, write_file
    from kdcache.strict_json import dump_json

    started = time.perf_counter()
    out: Path = arguments.out
    make_folder(out)
    teacher_top1 = _teacher(out, arguments.teacher_epochs)
    cache = out / "cache"
    _call(_extract_command(out, cache))
    _call(["verify", str(cache), "--rerun-teacher", "4", "--teacher-weights", str(out / "teacher.safetensors")])
    summaries: dict[str, dict[str, Any]] = {}
    for name, flags in _RUNS.items():
        folder = out / name.lower().replace(", ", "-").replace(" ", "-")
        _call(_train_command(cache, folder, flags, arguments.epochs))
        summaries[name] = {**json.loads((folder / "summary.json").read_bytes()), "folder": str(folder)}
    seconds = time.perf_counter() - started
    summary = {"teacher_top1": teacher_top1, "seconds": seconds, "runs": summaries}
    write_file(out / "summary.json", dump_json(summary))
    _draw(out, summaries, teacher_top1)
    if arguments.json:
        print_json(summary)
    else:
        _report(out, summaries, teacher_top1, seconds)
    return 0


def _teacher(out: Path, epochs: int) -> float:
    from dataclasses import replace

    import torch

    from kdcache.recipes.digits_teacher import DigitsTeacher, train_digits_teacher
    from kdcache.strict_json import dump_json

    weights, facts = out / "teacher.safetensors", out / "teacher.json"
    if weights.is_file() and facts.is_file():
        return json.loads(facts.read_bytes())["top1"]
    print(f"training a teacher on the digits: a ViT of width 96, {epochs} epochs", flush=True)
    torch.set_num_threads(_CPU_THREADS)
    top1 = train_digits_teacher(weights, replace(DigitsTeacher(), epochs=epochs))
    facts.write_bytes(dump_json({"top1": top1}))
    print(f"the teacher has a top-1 of {top1:.2f} %", flush=True)
    return top1


def _extract_command(out: Path, cache: Path) -> list[str]:
    from kdcache.recipes.digits_teacher import DigitsTeacher

    teacher = DigitsTeacher()
    command = ["extract", "--data", "digits:train", "--teacher", teacher.name]
    command += ["--teacher-weights", str(out / "teacher.safetensors"), "--teacher-kwargs"]
    command += [f"{name}={value}" for name, value in teacher.kwargs.items()]
    command += ["--tap", "blocks.-1/patch:fp16", "--tap", "blocks.-1/patch:int8", "--tap", "head/logits"]
    command += ["--views", "4", "--view-recipe", "rrc-flip", "--view-params", "scale=[0.6,1.0]", "flip=0"]
    return [*command, "--batch-size", "64", "--cpu-threads", str(_CPU_THREADS), "--out", str(cache)]


def _train_command(cache: Path, folder: Path, flags: list[str], epochs: int) -> list[str]:
    command = ["train", "--cache", str(cache), "--student", "vit_tiny_patch16_224", "--student-kwargs", *_STUDENT]
    command += [*flags, "--epochs", str(epochs), "--eval-data", "digits:test"]
    command += ["--set", "optimizer.lr=4e-3", "--set", "eval.crop_pct=1", "--set", "eval.every_epochs=3"]
    command += ["--set", f"cpu_threads={_CPU_THREADS}"]
    return [*command, "--out", str(folder)]


def _in_own_process(words: list[str]) -> int:
    """Run one kdcache command in a process of its own, so that its memory is its own too."""
    return subprocess.run([sys.executable, "-m", "kdcache", *words], check=False).returncode


def _call(words: list[str]) -> None:
    """Show a kdcache command and run it."""
    print(f"\n$ kdcache {shlex.join(words)}", flush=True)
    if code := _in_own_process(words):
        raise KdcacheError(f"`kdcache {words[0]}` ended with exit code {code}; its message is above")


def _draw(out: Path, summaries: dict[str, dict[str, Any]], teacher_top1: float) -> None:
    from kdcache.reports.curves import draw_curves
    from kdcache.train.metrics import read_metrics

    folders = {name: Path(summary["folder"]) for name, summary in summaries.items()}
    evals = {name: read_metrics(folder, "eval") for name, folder in folders.items()}
    steps = {name: read_metrics(folder, "step") for name, folder in folders.items()}
    draw_curves(out / "curves.png", evals, steps, ("teacher", teacher_top1))


def _report(out: Path, summaries: dict[str, dict[str, Any]], teacher_top1: float, seconds: float) -> None:
    from kdcache.reports.tables import text_table

    rows = [["teacher", "", f"{teacher_top1:.2f} %", "", "", ""]]
    for name, summary in summaries.items():
        rows.append(
            [
                name,
                f"{summary['num_parameters'] / 1e3:.0f} k",
                f"{summary['top1']:.2f} %",
                f"{summary['images_per_s']:.0f}",
                size_text(summary["target_bytes_per_view"]),
                size_text(summary["peak_memory_bytes"]),
            ]
        )
    print("\n" + text_table(["", "parameters", "top-1", "images/s", "bytes/image", "peak memory"], rows))
    share = teacher_top1 / 100
    error = 100 * math.sqrt(max(share * (1 - share), 1e-4) / 360)
    print("\n" + _MEANING.format(error=error))
    print(f"\n{seconds:.0f} s in all. {out / 'curves.png'} shows the curves, {out / 'summary.json'} has every figure.")
    print(f"next: kdcache show {out / 'cache'} --picture record.png")
