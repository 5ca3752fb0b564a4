"""The kernels on a GPU: right, and how far from the floor and from everything a user could run instead.

Every section compiles a few dozen kernels and fits one call of ten minutes: ``--only check,projection``, then
``--only statistics,share``. Without a GPU only ``--toy`` runs (interpreted: TRITON_INTERPRET=1), to show that it would.
"""

import argparse
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from benchmarks import kernels_check, kernels_projection, kernels_statistics
from benchmarks.kernels_meter import Meter, ceilings, guarded, read_predictions
from benchmarks.record import environment, write
from kdcache.reports.tables import text_table

Result = TypeVar("Result")
# About an H100's, for what needs some.
_ANY_RATES = {"copy_gb_s": 3000.0, "bf16_tflop_s": 798.0}
SECTIONS = ("check", "projection", "statistics", "share")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument("--only", default=",".join(SECTIONS), help=f"sections (default: {','.join(SECTIONS)})")
    parser.add_argument("--minutes", type=float, default=9.0, help="no measurement begins after these (9)")
    parser.add_argument("--by", default="", help="beginnings of names: kdcache,eager leaves torch.compile out (all)")
    parser.add_argument("--toy", action="store_true", help="tiny sizes on a CPU, interpreted; the times mean nothing")
    parser.add_argument("--workers", type=int, default=1, help="processes that check, and compile ahead (1)")
    parser.add_argument("--out", type=Path, help="JSON file; a table of the same name ends in .md")


def run(arguments: argparse.Namespace) -> int:
    """Measure."""
    sections = arguments.only.split(",")
    if unknown := sorted(set(sections) - set(SECTIONS)):
        print(f"no section {', '.join(unknown)}; there are {', '.join(SECTIONS)}", file=sys.stderr)
        return 2
    if not arguments.toy and not torch.cuda.is_available():
        print("no GPU here; --toy with TRITON_INTERPRET=1 shows that the benchmark runs", file=sys.stderr)
        return 2
    if arguments.toy and os.environ.get("TRITON_INTERPRET") != "1":
        print("--toy interprets the kernels: set TRITON_INTERPRET=1", file=sys.stderr)
        return 2
    by = tuple(name for name in arguments.by.split(",") if name)
    meter = Meter(torch.device("cpu" if arguments.toy else "cuda"), time.monotonic() + 60 * arguments.minutes, by=by)
    _repair_interpreter(meter)
    result: dict[str, Any] = {}
    for _ in _measured(meter, sections, result, arguments.workers):
        # After every section: a call that is cut off keeps what it has.
        if arguments.out is not None:
            write(arguments.out, result)
            arguments.out.with_suffix(".md").write_text(_page(result))
    wrong = [row["name"] for row in result.get("check", []) if not row["ok"]]
    print(f"{len(wrong)} checks failed, {len(result['errors'])} measurements failed: {', '.join(wrong)}")
    return 1 if wrong or result["errors"] else 0


def _measured(meter: Meter, sections: list[str], result: dict[str, Any], workers: int) -> Iterator[None]:
    """Fill the result, one section at a time."""
    import triton

    errors: list[dict[str, str]] = []
    rates = guarded("ceilings", errors, lambda: ceilings(meter)) or _ANY_RATES
    result |= {
        "benchmark": "kernels",
        **environment(meter.device),
        "triton": triton.__version__,
        "fp_fusion": os.environ.get("TRITON_DEFAULT_FP_FUSION", "default"),
        "ceilings": rates,
        "predictions": read_predictions(),
        "errors": errors,
    }
    print(rates, flush=True)
    if "check" in sections:
        result["check"] = []
        for rows, found in _shared(_check, meter, workers):
            result["check"] += rows
            errors += found
        yield
        result["hazard"] = kernels_check.hunt_hazard(meter, errors)
        yield
    if "projection" in sections:
        _shared(_compile_projection, replace(meter, only_compiles=True), workers if workers > 1 else 0)
        result["projection"] = kernels_projection.run(meter, rates, errors)
        yield
    if "statistics" in sections:
        _shared(_compile_statistics, replace(meter, only_compiles=True), workers if workers > 1 else 0)
        result["statistics"] = kernels_statistics.run(meter, rates, errors)
        yield
    if "share" in sections:
        result["share"] = kernels_projection.step_share(meter, errors)
        yield


def _shared(function: Callable[[Meter], Result], meter: Meter, workers: int) -> list[Result]:
    """What a function gives for each share of the cases, several processes at once."""
    meters = [replace(meter, share=(number, workers)) for number in range(workers)]
    if workers < 2:
        return [function(each) for each in meters]
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        return list(pool.map(function, meters))


def _repair_interpreter(meter: Meter) -> None:
    """At toy size the kernels are interpreted, and Triton's interpreter forgets what bfloat16 is."""
    if meter.is_toy:
        from tests.kernels.interpreter import repair

        repair()


def _check(meter: Meter) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    _repair_interpreter(meter)
    errors: list[dict[str, str]] = []
    return kernels_check.run(meter, errors), errors


def _compile_projection(meter: Meter) -> None:
    kernels_projection.run(meter, _ANY_RATES, [])


def _compile_statistics(meter: Meter) -> None:
    kernels_statistics.run(meter, _ANY_RATES, [])


def _page(result: dict[str, Any]) -> str:
    """The measured rows as a table for people."""
    rows = []
    for row in (*result.get("projection", []), *result.get("statistics", [])):
        floor_ms = next(iter(row["floors"].values()))
        median = row["ms"]["median"]
        rows.append(
            [
                row["shape"],
                row["variant"],
                f"{median * 1e3:.1f}",
                f"{row['ms']['p20'] * 1e3:.1f} to {row['ms']['p80'] * 1e3:.1f}",
                f"{median / floor_ms:.2f}",
                "" if row["host_us"] is None else f"{row['host_us']:.0f}",
                "" if row["peak_mb"] is None else f"{row['peak_mb']:.1f}",
                "" if row["launches"] is None else f"{row['launches']} ({row['kernel_us']:.1f} us)",
            ]
        )
    head = f"{result['device']}, {result['date']}, torch {result['versions']['torch']}, Triton {result['triton']}"
    table = text_table(["what", "by", "us", "p20 to p80", "x floor", "host us", "MB", "launches"], rows)
    share = result.get("share")
    words = ""
    if share:
        with_loss, without = (share[key]["ms"]["median"] for key in ("with_loss", "without_loss"))
        words = (
            f"\n{share['student']} at batch {share['batch']}: {without:.2f} ms a step, {with_loss:.2f} with the loss\n"
        )
    return f"# Kernels\n\n{head}\n\n```\n{table}\n```\n{words}"
