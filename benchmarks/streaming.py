"""How fast do loaders read the same records, beside memcpy?

Every loader writes each workload in its own format and reads it back in batches, in order and shuffled, from a warm
page cache and from a cold one. Warm: all loaders take turns, repeat after repeat, with a memcpy of a batch's bytes
before and after each turn; the ratio to it is what holds on a shared machine. C is held against the decoder alone in as
many threads. Nobody reads what a batch holds. Cold: all loaders are closed, the loader's files are dropped from the
page cache, it is opened and one epoch is run, both timed.
"""

import argparse
import contextlib
import gc
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.peers.base import Loader, Workload
from benchmarks.peers.registry import installed
from benchmarks.record import environment, spread, write
from benchmarks.streaming_ours import Kdcache
from benchmarks.streaming_photos import PhotoWorkload, photographs, replay
from benchmarks.streaming_table import markdown
from kdcache.costs.memcpy import Memcpy
from kdcache.reports.tables import text_table
from kdcache.stream.config import StreamConfig

SHARED = Path(__file__).parents[2] / "shared/data/imagenet-sample"
ORDERS = ("sequential", "shuffled")
_TOY_SHARE = 32


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument("--workloads", default="A,B,C", help="A, B, C (all)")
    parser.add_argument("--loaders", help="names, separated by semicolons (all that are installed)")
    parser.add_argument("--threads", type=int, default=2, help="threads or worker processes of a loader (2)")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=0.3, help="at least this long per turn, in whole epochs (0.3)")
    parser.add_argument("--cold", type=int, default=3, help="cold repeats (3)")
    parser.add_argument("--scratch", type=Path, help="folder for the data; kept if given (a temporary one)")
    parser.add_argument("--toy", action="store_true", help="a few records only, to see that it runs")
    parser.add_argument("--out", type=Path, help="JSON file")


def workloads(folder: Path, threads: int, *, is_toy: bool) -> dict[str, Workload]:
    """A: many tokens as they are. B: a quarter of the bytes, quantised. C: photographs and features."""
    share = _TOY_SHARE if is_toy else 1
    batch = 256 // share
    feature = {"values": ("<f2", (196, 384))}
    return {
        "A": Workload("A", 4000 // share, batch, {"values": ("<f2", (197, 384))}, threads),
        "B": Workload("B", 20_000 // share, batch, {"values": ("|i1", (197, 121)), "scale": ("<f4", (197,))}, threads),
        "C": PhotoWorkload(
            "C", 1000 // share, 64 // min(share, 8), feature, threads, photographs(SHARED, folder / "photos"), replay
        ),
    }


@dataclass
class Contender:
    """One loader on one workload in one order, with what was measured of it."""

    loader: Loader
    workload: Workload
    folder: Path
    order: str
    batches: int = 0
    rates: list[float] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)
    cold_rates: list[float] = field(default_factory=list)
    epoch: int = 0

    def open(self) -> None:
        """Open in this order, and run the first epoch."""
        self.loader.open(self.workload, self.folder, shuffle=self.order == "shuffled")

    def run_epoch(self) -> int:
        """Rows that one epoch delivers; each batch is taken and let go."""
        rows = self.batches = 0
        for batch in self.loader.epoch(self.epoch):
            rows += len(batch["label"])
            self.batches += 1
        self.epoch += 1
        return rows

    def rate(self, seconds: float) -> float:
        """Rows a second over whole epochs."""
        rows, began = 0, time.perf_counter()
        while (passed := time.perf_counter() - began) < seconds or not rows:
            rows += self.run_epoch()
        return rows / passed

    def cold_rate(self) -> float:
        """Rows a second, opening included, after the files were dropped from the page cache; nobody may map them."""
        for path in self.folder.rglob("*"):
            if path.is_file():
                _drop(path)
        began = time.perf_counter()
        self.open()
        rows = self.run_epoch()
        passed = time.perf_counter() - began
        self.loader.close()
        return rows / passed

    def result(self) -> dict[str, Any]:
        """For the JSON file."""
        return {
            "workload": self.workload.name,
            "order": self.order,
            "loader": self.loader.name,
            "versions": self.loader.versions(),
            "settings": {name: str(value) for name, value in self.loader.settings(self.workload).items()},
            "batches_per_epoch": self.batches,
            "samples_per_s": spread(self.rates),
            "ratio": spread(self.ratios),
            "cold_samples_per_s": spread(self.cold_rates) if self.cold_rates else None,
        }


def run(arguments: argparse.Namespace) -> int:
    """Measure."""
    torch.set_num_threads(1)
    scratch = (arguments.scratch or Path(tempfile.mkdtemp())) / ("toy" if arguments.toy else "full")
    peers, missing = installed()
    loaders = [Kdcache("map"), Kdcache("read"), *peers]
    if arguments.loaders:
        loaders = [loader for loader in loaders if loader.name in arguments.loaders.split(";")]
    errors: list[dict[str, str]] = [{"loader": name, "error": reason} for name, reason in missing.items()]
    rows: list[dict[str, Any]] = []
    yardsticks: dict[str, Any] = {}
    try:
        known = workloads(scratch, arguments.threads, is_toy=arguments.toy)
        for name in arguments.workloads.split(","):
            yardstick = _yardstick(known[name])
            for order in ORDERS:
                contenders = list(_prepared(loaders, known[name], scratch, order, errors))
                if not contenders:
                    continue
                used = _take_turns(contenders, yardstick, arguments)
                yardsticks[f"{name} {order}"] = spread(used)
                rows += [contender.result() for contender in contenders]
                print(_table(rows[-len(contenders) :], yardsticks[f"{name} {order}"]), flush=True)
                _write(arguments, rows, yardsticks, errors)
    finally:
        if arguments.scratch is None:
            shutil.rmtree(scratch.parent)
    for error in errors:
        print(f"not measured: {error}")
    return 0


def _write(
    arguments: argparse.Namespace, rows: list[dict[str, Any]], yardsticks: dict[str, Any], errors: list[dict[str, str]]
) -> None:
    """What is known so far, after every case."""
    if arguments.out is None:
        return
    result = {
        "benchmark": "streaming",
        **environment(torch.device("cpu")),
        "settings": {name: str(value) for name, value in vars(arguments).items()},
        "yardsticks": yardsticks,
        "loaders": rows,
        "errors": errors,
    }
    write(arguments.out, result)
    arguments.out.with_suffix(".md").write_text(markdown(result))


def _prepared(
    loaders: list[Loader], workload: Workload, scratch: Path, order: str, errors: list[dict[str, str]]
) -> Iterator[Contender]:
    """Loaders that can do it, with their data written and one epoch run."""
    for loader in loaders:
        if workload.name not in loader.workloads or order not in loader.orders:
            continue
        folder = scratch / workload.name / (loader.files or loader.name).replace(" ", "-").lower()
        print(f"preparing {loader.name}, {workload.name} {order}", flush=True)
        try:
            if not folder.exists():
                unfinished = folder.with_suffix(".unfinished")
                shutil.rmtree(unfinished, ignore_errors=True)
                unfinished.mkdir(parents=True)
                loader.write(workload, unfinished)
                unfinished.rename(folder)
            contender = Contender(loader, workload, folder, order)
            contender.open()
            contender.run_epoch()
        except Exception as error:  # one loader that cannot must not end the comparison; it is listed with its reason
            with contextlib.suppress(Exception):  # it may have got no further than half-way
                loader.close()
            errors.append({"loader": loader.name, "workload": workload.name, "order": order, "error": repr(error)})
            continue
        yield contender


def _take_turns(contenders: list[Contender], yardstick: "Yardstick", arguments: argparse.Namespace) -> list[float]:
    used: list[float] = []
    for repeat in range(arguments.repeats):
        # Every repeat begins with another loader, so that none always follows the same one.
        for contender in contenders[repeat % len(contenders) :] + contenders[: repeat % len(contenders)]:
            before = yardstick.samples_per_s()
            rate = contender.rate(arguments.seconds)
            around = (before + yardstick.samples_per_s()) / 2
            contender.rates.append(rate)
            contender.ratios.append(rate / around)
            used.append(around)
    for contender in contenders:
        contender.loader.close()  # all of them: pages that anybody maps cannot be dropped
    gc.collect()
    for _ in range(arguments.cold):
        for contender in contenders:
            if contender.loader.reads_first_in_epoch:
                contender.cold_rates.append(contender.cold_rate())
    return used


class Yardstick:
    """What loaders are held against, in samples a second."""

    def samples_per_s(self) -> float:
        """Measure for a moment."""
        raise NotImplementedError


class MemcpyYardstick(Yardstick):
    """One thread's memcpy of the same bytes."""

    def __init__(self, workload: Workload) -> None:
        self._record_bytes = workload.record_bytes
        self._memcpy = Memcpy(workload.batch_size * workload.record_bytes, StreamConfig(batch_size=1).num_buffers)
        self._memcpy.bytes_per_s()

    def samples_per_s(self) -> float:
        """Records copied a second."""
        return self._memcpy.bytes_per_s(0.1) / self._record_bytes


class DecoderYardstick(Yardstick):
    """Decoding and replaying alone, of files in memory, in as many threads."""

    def __init__(self, workload: Workload) -> None:
        assert workload.replay is not None
        self._replay, self._threads = workload.replay, workload.num_threads
        self._work = [(workload.image(number), workload.view(number)) for number in range(workload.num_records)]

    def samples_per_s(self) -> float:
        """Views made a second."""
        began = time.perf_counter()
        with ThreadPoolExecutor(self._threads) as pool:
            for _ in pool.map(lambda each: self._replay(*each), self._work):
                pass
        return len(self._work) / (time.perf_counter() - began)


def _yardstick(workload: Workload) -> Yardstick:
    return DecoderYardstick(workload) if workload.images else MemcpyYardstick(workload)


def _drop(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def _table(rows: list[dict[str, Any]], yardstick: dict[str, float]) -> str:
    body = [
        [
            row["loader"],
            f"{row['ratio']['median']:.3f}",
            f"{row['ratio']['p20']:.3f} to {row['ratio']['p80']:.3f}",
            f"{row['samples_per_s']['median']:,.0f}",
            "" if row["cold_samples_per_s"] is None else f"{row['cold_samples_per_s']['median']:,.0f}",
        ]
        for row in sorted(rows, key=lambda row: -row["ratio"]["median"])
    ]
    what = (
        f"{rows[0]['workload']} {rows[0]['order']}; yardstick {yardstick['median']:,.0f} samples/s" if rows else "none"
    )
    return text_table([what, "ratio", "p20 to p80", "samples/s", "cold"], body)
