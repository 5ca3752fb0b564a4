"""What is a cached teacher worth? Students of every method on CIFAR-10, over seeds, with their controls.

A teacher is trained here, `kdcache extract` caches it, and every run is one `kdcache train` in a process of its own.
Each finished run is in the results file at once; the same command again makes only what is missing there. Seeds are the
outer loop, so a table that was cut short has about as many seeds in each row.
"""

import argparse
import datetime
import functools
import json
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.accuracy_grid import GRIDS, PAIRS, Grid, Row, extract_words, rows_of, train_words
from benchmarks.accuracy_table import markdown
from benchmarks.command import CommandRunner
from benchmarks.record import environment
from kdcache.distributed.env import worker_env
from kdcache.distributed.process_group import choose_device
from kdcache.durable import write_file
from kdcache.errors import KdcacheError
from kdcache.train.folder import read_summary

_CIFAR = "../shared/data/cifar10"
_KEPT = ("top1", "num_parameters", "steps", "step_ms", "stall_share", "peak_memory_bytes", "target_bytes_per_view")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument("--grid", choices=[name for name in GRIDS if name != "toy"], default="reduced")
    parser.add_argument("--toy", action="store_true", help="a few steps of each, to see that it runs")
    parser.add_argument(
        "--data",
        default=_CIFAR,
        help=f"folder with CIFAR-10 as train-*.tar.gz and test-*.tar.gz, see README ({_CIFAR})",
    )
    parser.add_argument("--seeds", type=int, default=3, help="runs of each row (3)")
    parser.add_argument("--rows", help="names of rows, ;-separated (all)")
    parser.add_argument("--jobs", type=int, help="runs at a time (the grid's)")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--work", type=Path, help="folder for teacher, cache and runs (one of the grid's name in /tmp)")
    parser.add_argument("--out", type=Path, required=True, help="JSON file, also what a rerun resumes; a table beside")


def run(arguments: argparse.Namespace) -> int:
    """Make what is missing."""
    name = "toy" if arguments.toy else arguments.grid
    try:
        Benchmark(name, arguments).run()
    except (KdcacheError, ValueError) as error:
        print(f"accuracy: {error}", file=sys.stderr)
        return 1
    return 0


class Benchmark:
    """The runs of one grid and the file they are collected in."""

    def __init__(self, name: str, arguments: argparse.Namespace) -> None:
        self.grid: Grid = GRIDS[name]
        self.arguments = arguments
        self.rows = rows_of(self.grid)
        chosen = arguments.rows.split(";") if arguments.rows else list(self.rows)
        if unknown := [each for each in chosen if each not in self.rows]:
            raise ValueError(f"--rows {unknown[0]}: choose from {'; '.join(self.rows)}")
        self.device = choose_device(arguments.device, worker_env())
        self.work: Path = arguments.work or Path(tempfile.gettempdir()) / f"kdcache-accuracy-{name}"
        self.work.mkdir(parents=True, exist_ok=True)
        self.train, self.test = sources(Path(arguments.data))
        self.runner = CommandRunner()
        self.lock = threading.Lock()
        self.result = self._begin(name)
        self.wanted = [(row, seed) for seed in range(arguments.seeds) for row in chosen]

    def run(self) -> None:
        """Train the teacher, cache it, train the students; skip what is there."""
        done = {(each["row"], each["seed"]) for each in self.result["runs"]}
        missing = [each for each in self.wanted if each not in done]
        if missing:
            self._teacher()
            self._cache()
            jobs = self.arguments.jobs or self.grid.jobs
            with ThreadPoolExecutor(jobs) as pool:
                for _ in pool.map(lambda each: self._student(*each), missing):
                    pass
        self._write()
        print(markdown(self.result, list(self.rows), PAIRS))

    def _begin(self, name: str) -> dict[str, Any]:
        out: Path = self.arguments.out
        grid = json.loads(json.dumps(asdict(self.grid)))
        if out.is_file():
            result = json.loads(out.read_text())
            if result["grid"] != grid or result["grid_name"] != name:
                raise ValueError(
                    f"{out} holds grid {result['grid_name']} with other settings than these; choose another --out"
                )
            return result
        jobs = self.arguments.jobs or self.grid.jobs
        head = {"benchmark": "accuracy", **environment(self.device), "grid_name": name, "jobs": jobs, "grid": grid}
        return {**head, "commands": {}, "runs": []}

    def _teacher(self) -> None:
        facts = self.work / "teacher.json"
        if not facts.is_file():
            self.runner.call(
                functools.partial(
                    _train_teacher,
                    self.grid,
                    self.work,
                    self.train,
                    self.test,
                    str(self.device),
                ),
                self.work / "teacher.log",
            )
        found = json.loads(facts.read_text())
        known = next((each for each in self.result["runs"] if each["row"] == "teacher"), None)
        if known is None:
            self._add(found)
        elif known["weights_sha256"] != found["weights_sha256"]:
            raise ValueError(
                f"{self.work} holds another teacher than {self.arguments.out} was made with; give that --work, or "
                "another --out"
            )

    def _cache(self) -> None:
        words = extract_words(self.grid, self.work, train=self.train, device=str(self.device))
        self.runner.run(words, self.work / "extract.log")
        self.result["commands"]["extract"] = " ".join(["kdcache", *words])

    def _student(self, name: str, seed: int) -> None:
        row: Row = self.rows[name]
        slug = name.replace(" ", "_").replace(",", "")
        out = self.work / "runs" / f"{slug}-{seed}"
        words = train_words(self.grid, row, self.work, out, seed=seed, test=self.test, device=str(self.device))
        self.runner.run(words, self.work / "logs" / f"{slug}-{seed}.log")
        summary = read_summary(out)
        assert summary is not None
        losses = {term["label"]: term["loss"] for term in summary["terms"]}
        self.result["commands"].setdefault(name, " ".join(["kdcache", *words]))
        finished = datetime.datetime.now().isoformat(timespec="seconds")
        entry = {"row": name, "seed": seed, **{key: summary[key] for key in _KEPT}, "losses": losses}
        self._add({**entry, "codec": row.codec, "teacher": summary["teacher"], "finished": finished})

    def _add(self, entry: dict[str, Any]) -> None:
        with self.lock:
            self.result["runs"].append(entry)
            self._write()
        print(f"{entry['row']}, seed {entry['seed']}: top-1 {entry['top1']:.2f} %", flush=True)

    def _write(self) -> None:
        out: Path = self.arguments.out
        out.parent.mkdir(parents=True, exist_ok=True)
        write_file(out, (json.dumps(self.result, indent=1) + "\n").encode())
        write_file(out.with_suffix(".md"), markdown(self.result, list(self.rows), PAIRS).encode())


def sources(folder: Path) -> tuple[str, str]:
    """The training and the test images of a folder, as `open_source` takes them.

    Raises: ValueError.
    """
    found: dict[str, str] = {}
    for part in ("train", "test"):
        paths = sorted(folder.glob(f"{part}-*.tar.gz")) or sorted(folder.glob(f"{part}-*.tar"))
        if not paths:
            raise ValueError(
                f"{folder}: no {part}-NNN.tar.gz and no {part}-NNN.tar; pass the folder that has them as --data"
            )
        stem, dot, ending = paths[0].name.partition(".")
        names = [path.name.removesuffix(dot + ending) for path in paths]
        found[part] = f"{folder}/{{{','.join(names)}}}.{ending}" if len(names) > 1 else str(folder / f"{stem}.{ending}")
    return found["train"], found["test"]


def _train_teacher(grid: Grid, work: Path, train: str, test: str, device: str) -> None:
    from benchmarks.accuracy_teacher import train_teacher

    train_teacher(grid.teacher, work, train=train, test=test, device=device, cpu_threads=grid.cpu_threads)
