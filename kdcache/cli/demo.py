"""The whole way in minutes, on 1,797 handwritten digits that come with scikit-learn.

Trains a small teacher, caches its outputs, verifies the cache, trains students from it with several seeds and compares
them. Prints every command it runs. Running it again into the same folder resumes where it stopped.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdcache.cli.places import local_path
from kdcache.cli.text import print_json
from kdcache.errors import KdcacheError, UsageError
from kdcache.ordered_map import ordered_map

USAGE = "[--out DIR] [options]"
EXAMPLE = """example:
  kdcache demo --out runs/demo"""

# The models are so small that a second thread gains little, and where others use the cores, waiting
# for it at every operation costs more than tenfold (benchmarks/LOG.md). A second run gains more.
_CPU_THREADS = 1
_MOST_JOBS = 2
_METHODS = {
    "student alone": "none",
    "logits": "logit",
    "feature": "feature",
    "Lift": "lift",
    "WideLast": "widelast",
}
# timm's default weights (standard deviation .02) are meant for wide models: at this width the first
# epochs learn nothing, and seeds differ by where that ends (benchmarks/LOG.md). Mean pooling helps too.
_STUDENT = ["img_size=16", "patch_size=4", "embed_dim=32", "depth=2", "num_heads=2"]
_STUDENT += ["global_pool=avg", "weight_init=jax"]
_SETTINGS = ["optimizer.lr=3e-3", "scheduler.warmup_epochs=1"]
_SETTINGS += ["eval.crop_pct=1", "eval.every_epochs=2"]


@dataclass(frozen=True, kw_only=True)
class _Student:
    """One training run: its row in the table, its seed, where it lies and how it is made."""

    row: str
    seed: int
    folder: Path
    command: list[str]

    @property
    def name(self) -> str:
        return f"{self.row}, seed {self.seed}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    folder = Path("runs/demo")
    add = parser.add_argument
    add("--out", type=local_path, default=folder, metavar="DIR", help=f"folder (default: {folder})")
    add("--epochs", type=int, default=20, metavar="N", help="of each student (20)")
    add("--seeds", type=int, default=3, metavar="N", help="runs of each student, seeds 0 to N-1 (3)")
    add("--teacher-epochs", type=int, default=30, metavar="N", help="of the teacher (30)")
    add("--json", action="store_true", help="print the summary as JSON at the end")


def run(arguments: argparse.Namespace) -> int:
    """Run the demo."""
    from kdcache.cli.demo_table import demo_text, summarize
    from kdcache.durable import make_folder, write_file
    from kdcache.strict_json import dump_json

    if arguments.seeds < 1:
        raise UsageError(f"--seeds must be at least 1, got {arguments.seeds}")
    started = time.perf_counter()
    out: Path = arguments.out
    make_folder(out)
    teacher_top1 = _teacher(out, arguments.teacher_epochs)
    cache, weights = out / "cache", str(out / "teacher.safetensors")
    _call(_extract_command(cache, weights))
    _call(["verify", str(cache), "--rerun-teacher", "4", "--teacher-weights", weights])
    runs = _train(_students(out, cache, arguments.epochs, arguments.seeds))
    seconds = time.perf_counter() - started
    summary = {"teacher_top1": teacher_top1, **summarize(runs), "seconds": seconds, "runs": runs}
    write_file(out / "summary.json", dump_json(summary))
    _draw(out, runs, teacher_top1)
    if arguments.json:
        print_json(summary)
        return 0
    print(f"\n{demo_text(summary)}\n\n{seconds:.0f} s in all.", end=" ")
    print(f"{out / 'curves.png'} shows the curves, {out / 'summary.json'} has every figure.")
    print(f"next: kdcache show {cache} --picture record.png")
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


def _extract_command(cache: Path, weights: str) -> list[str]:
    from kdcache.recipes.digits_teacher import DigitsTeacher

    teacher = DigitsTeacher()
    command = ["extract", "--data", "digits:train", "--teacher", teacher.name]
    command += ["--teacher-weights", weights, "--teacher-kwargs"]
    command += [f"{name}={value}" for name, value in teacher.kwargs.items()]
    command += ["--tap", "blocks.-1/patch:int8", "--tap", "head/logits", "--views", "4"]
    command += ["--view-recipe", "rrc-flip", "--view-params", "scale=[0.6,1.0]", "flip=0"]
    command += ["--pixels", "raw", "--batch-size", "64", "--cpu-threads", str(_CPU_THREADS)]
    return [*command, "--out", str(cache)]


def _students(out: Path, cache: Path, epochs: int, num_seeds: int) -> list[_Student]:
    """Every row with every seed; all rows of a seed before the next seed."""
    students: list[_Student] = []
    for seed in range(num_seeds):
        for row, method in _METHODS.items():
            folder = out / f"{row.lower().replace(' ', '-')}-{seed}"
            command = ["train", "--cache", str(cache), "--student", "vit_tiny_patch16_224"]
            command += ["--student-kwargs", *_STUDENT, "--method", method]
            command += ["--epochs", str(epochs), "--batch-size", "32", "--eval-data", "digits:test"]
            for setting in (*_SETTINGS, f"cpu_threads={_CPU_THREADS}"):
                command += ["--set", setting]
            command += ["--seed", str(seed), "--out", str(folder)]
            students.append(_Student(row=row, seed=seed, folder=folder, command=command))
    return students


def _train(students: list[_Student]) -> dict[str, dict[str, Any]]:
    """Train all students, as many at a time as there are cores; returns their summaries by name."""
    jobs = min(_MOST_JOBS, os.cpu_count() or 1)
    runs: dict[str, dict[str, Any]] = {}
    with ThreadPoolExecutor(jobs) as pool:
        finished = ordered_map(_train_one, _announced(students), pool, ahead=jobs + 1)
        for student, (code, output) in zip(students, finished, strict=True):
            if code:
                print(output, end="", file=sys.stderr)
                raise _failure("train", code)
            summary = json.loads((student.folder / "summary.json").read_bytes())
            facts = {"row": student.row, "seed": student.seed, "folder": str(student.folder)}
            runs[student.name] = {**summary, **facts}
            print(f"{student.name}: top-1 {summary['top1']:.2f} %", flush=True)
    return runs


def _announced(students: list[_Student]) -> Iterator[_Student]:
    """Show the command of each student as its turn comes, in full for the first seed."""
    for student in students:
        if student.seed == 0:
            print(f"\n$ kdcache {shlex.join(student.command)}", flush=True)
        else:
            changed = student.command[student.command.index("--seed") :]
            print(f"{student.row}: the same command with {shlex.join(changed)}", flush=True)
        yield student


def _train_one(student: _Student) -> tuple[int, str]:
    return _in_own_process(student.command, quiet=True)


def _call(words: list[str]) -> None:
    """Show a kdcache command and run it."""
    print(f"\n$ kdcache {shlex.join(words)}", flush=True)
    code, _ = _in_own_process(words)
    if code:
        raise _failure(words[0], code)


def _in_own_process(words: list[str], *, quiet: bool = False) -> tuple[int, str]:
    """Run one kdcache command in a process of its own, so that its memory is its own too.

    Returns: its exit code and, if `quiet`, what it printed, which is then not shown.
    """
    to = subprocess.PIPE if quiet else None
    done = subprocess.run(
        [sys.executable, "-m", "kdcache", *words],
        check=False,
        stdout=to,
        stderr=subprocess.STDOUT if quiet else None,
        text=True,
    )
    return done.returncode, done.stdout or ""


def _failure(verb: str, code: int) -> KdcacheError:
    return KdcacheError(f"`kdcache {verb}` ended with exit code {code}; its message is above")


def _draw(out: Path, runs: dict[str, dict[str, Any]], teacher_top1: float) -> None:
    from kdcache.reports.curves import draw_curves
    from kdcache.train.metrics import read_metrics

    folders: dict[str, list[Path]] = {}
    for each in runs.values():
        folders.setdefault(each["row"], []).append(Path(each["folder"]))
    evals = {row: [read_metrics(each, "eval") for each in of] for row, of in folders.items()}
    steps = {row: [read_metrics(each, "step") for each in of] for row, of in folders.items()}
    draw_curves(out / "curves.png", evals, steps, ("teacher", teacher_top1))
