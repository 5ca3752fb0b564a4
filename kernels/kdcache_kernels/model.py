"""``python -m kdcache_kernels.model``: predict each operation's time on a GPU that is not there.

Counted are, for every launch, the bytes it is given, and from its machine code the instructions, barriers and loads of
a turn of each loop. A launch takes as long as the slowest of three: memory, the way from the second-level cache to the
multiprocessors, and issuing, products and waiting one after another. `_LAUNCH_US`, `_BARRIER_US` and the cache's speed
were fitted to an H100's times of 2026-11-26, `_LOAD_US` is assumed; benchmarks/LOG.md has the differences. For other
GPUs all four are assumed to be the same.
"""

import argparse
import dataclasses
import datetime
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import triton

from kdcache_kernels import aot
from kdcache_kernels.aot import Resources
from kdcache_kernels.assembly import Loop
from kdcache_kernels.device.case import Work
from kdcache_kernels.device.kernels import KERNELS
from kdcache_kernels.gpus import GPUS, Gpu
from kdcache_kernels.launches import Launch
from kdcache_kernels.operations import OPERATIONS, Operation

_PREDICTIONS = Path(__file__).parent / "predictions"
# Between two launches of a CUDA graph; what a program loses where its warps wait for each other; and what a turn of a
# loop loses that loads, and multiplies nothing meanwhile.
_LAUNCH_US, _BARRIER_US, _LOAD_US = 3.0, 0.15, 0.7
# A change of less is the compiler's.
_TOLERANCE = 1.02
_WORK = {name: work for kernel in KERNELS for name, work in kernel.work.items()}


def predict_launch(launch: Launch, used: Resources, gpu: Gpu) -> dict[str, Any]:
    """How long a launch takes, and what of it limits it; microseconds.

    Args:
        launch: As recorded.
        used: What its kernel compiled to.
        gpu: Where it would run.
    """
    work = _WORK[launch.case.name](launch.values) if launch.case.name in _WORK else Work()
    programs, warps = launch.num_programs, launch.case.num_warps
    busy = min(gpu.multiprocessors, programs)
    beside = min(_resident(used, warps, gpu), -(-programs // busy))
    productive = [loop for loop in used.loops if loop.products]
    others = [loop for loop in used.loops if not loop.products]
    # Loops with products count alike; how many turns they make together follows from the operations.
    sharing = 4 if "HGMMA" in used.matrix_instructions else 1
    turns = work.operations / (_mean(productive, "products") * warps / sharing) if productive else 0.0
    once = programs * work.turns
    instructions = warps * (
        turns * _mean(productive, "instructions")
        + programs * used.other_instructions
        + once * sum(loop.instructions for loop in others)
    )
    loaded = warps * (turns * _mean(productive, "loaded_bytes") + once * sum(loop.loaded_bytes for loop in others))
    issue = instructions / (4 * busy * gpu.clock_ghz * 1e3)
    products = work.operations * gpu.multiprocessors / (busy * gpu.tflop_s * 1e6)
    waits = (turns * _mean(productive, "barriers") * _BARRIER_US + once * bool(others) * _LOAD_US) / (busy * beside)
    bounds = {
        "memory": launch.bytes / (gpu.memory_gb_s * 1e3),
        "cache": loaded / (gpu.cache_gb_s * 1e3),
        "issue, products and waits": issue + products + waits,
    }
    limit = max(bounds, key=lambda name: bounds[name])
    return {
        "kernel": launch.case.name,
        "programs": programs,
        "registers": used.registers,
        "spill_bytes": used.spill_bytes,
        "shared_bytes": used.shared_bytes,
        "loops": [dataclasses.asdict(loop) for loop in used.loops],
        "other_instructions": used.other_instructions,
        "memory_us": round(bounds["memory"], 1),
        "cache_us": round(bounds["cache"], 1),
        "issue_us": round(issue, 1),
        "products_us": round(products, 1),
        "waits_us": round(waits, 1),
        "limited_by": limit,
        "predicted_us": round(bounds[limit] + _LAUNCH_US, 1),
    }


def predict(operation: Operation, arch: str) -> dict[str, Any]:
    """One row: an operation's launches, their times and the sum; microseconds.

    The floor is that of the sweeps over the tokens, each at the slower of memory and products.
    """
    gpu = GPUS[arch]
    recording = operation.record(gpu.multiprocessors, arch)
    launches = [predict_launch(each, aot.compile_case(each.case, arch), gpu) for each in recording.kernels]
    sweeps = [
        made
        for made, each in zip(launches, recording.kernels, strict=True)
        if {"num_rows", "num_tokens"} & set(each.values)
    ]
    floor = sum(max(each["memory_us"], each["products_us"]) for each in sweeps)
    traffic = recording.traffic
    in_torch = traffic.launches * _LAUNCH_US + traffic.bytes / (gpu.memory_gb_s * 1e3)
    total = sum(each["predicted_us"] for each in launches) + in_torch
    slowest = max(launches, key=lambda each: each["predicted_us"])
    return {
        "operation": operation.name,
        "floor_us": round(floor, 1),
        "predicted_us": round(total, 1),
        "share_of_floor": round(floor / total, 2),
        "limited_by": f"{slowest['kernel']}: {slowest['limited_by']}",
        "torch_launches": traffic.launches,
        "torch_us": round(in_torch, 1),
        "kernels": launches,
    }


def worse(new: dict[str, Any], old: dict[str, Any]) -> list[str]:
    """What of a row became worse: a predicted time, or any loop's instructions or barriers."""
    found = []
    if new["predicted_us"] > old["predicted_us"] * _TOLERANCE:
        found.append(f"predicted {new['predicted_us']} us, before {old['predicted_us']}")
    before = {each["kernel"]: each for each in old["kernels"]}
    for each in new["kernels"]:
        for name, (now, then) in _compared(each, before.get(each["kernel"], each)).items():
            if now > then * _TOLERANCE:
                found.append(f"{each['kernel']}: {name} {now}, before {then}")
    return found


def _compared(new: dict[str, Any], old: dict[str, Any]) -> dict[str, tuple[float, float]]:
    compared = {"bytes of spills": (new["spill_bytes"], old["spill_bytes"])}
    for name in ("instructions", "barriers"):
        now, then = (sum(loop[name] for loop in each["loops"]) for each in (new, old))
        compared[f"{name} in loops"] = now, then
    return compared


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0 unless ``--check`` finds a row that became worse (1) or it was asked wrongly (2)."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        aot.require_compiler()
    except RuntimeError as error:
        parser.error(str(error))
    numbers = [number for number, each in enumerate(OPERATIONS) if re.search(options.filter, each.name)]
    if not numbers:
        names = ", ".join(each.name for each in OPERATIONS)
        parser.error(f"no operation matches --filter {options.filter!r}; there are {names}")
    file = options.json or _PREDICTIONS / f"{options.arch}.json"
    old = _read(parser, file) if options.check else {}
    rows = []
    for row in aot.on_all_cores(_row, [(number, options.arch) for number in numbers]):
        print(describe(row), flush=True)
        rows.append(row)
    if options.check:
        return _report(rows, old, file)
    if options.write:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(_document(rows, options.arch), indent=1) + "\n", encoding="utf-8")
        print(f"wrote {file}")
    return 0


def describe(row: dict[str, Any]) -> str:
    """One line for one operation."""
    parts = ", ".join(f"{each['kernel']} {each['predicted_us']}" for each in row["kernels"])
    return (
        f"{row['operation']:28s} floor {row['floor_us']:6.1f} us, predicted {row['predicted_us']:6.1f}, share "
        f"{row['share_of_floor']:.2f}, limited by {row['limited_by']} ({parts}, torch {row['torch_us']})"
    )


def _row(number: int, arch: str) -> dict[str, Any]:
    return predict(OPERATIONS[number], arch)


def _versions(arch: str) -> dict[str, str]:
    return {"triton": triton.__version__, "ptxas": ".".join(map(str, aot.ptxas_version(arch) or ()))}


def _document(rows: list[dict[str, Any]], arch: str) -> dict[str, Any]:
    return {
        "made_by": f"python -m kdcache_kernels.model --arch {arch} --write",
        "gpu": dataclasses.asdict(GPUS[arch]),
        "versions": {"torch": str(torch.__version__), **_versions(arch)},
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "rows": rows,
    }


def _read(parser: argparse.ArgumentParser, file: Path) -> dict[str, Any]:
    if not file.is_file():
        parser.error(f"{file} is not there; make it with --write")
    found = json.loads(file.read_text(encoding="utf-8"))
    arch = file.stem
    if arch in GPUS and (
        differing := {
            name: (found["versions"].get(name), value)
            for name, value in _versions(arch).items()
            if found["versions"].get(name) != value
        }
    ):
        parser.error(
            f"{file} was made by another compiler (found, here): {differing}; compare under the same, or --write"
        )
    return {row["operation"]: row for row in found["rows"]}


def _report(rows: list[dict[str, Any]], old: dict[str, Any], file: Path) -> int:
    faults = 0
    for row in rows:
        if row["operation"] not in old:
            print(f"WORSE {row['operation']}: {file} does not have it; add it with --write")
            faults += 1
            continue
        for fault in worse(row, old[row["operation"]]):
            print(f"WORSE {row['operation']}: {fault}; if that is meant, --write and commit {file.name}")
            faults += 1
    print(f"{len(rows)} operations beside {file}: {faults} worse")
    return 1 if faults else 0


def _resident(used: Resources, warps: int, gpu: Gpu) -> int:
    """Programs that a multiprocessor holds at a time."""
    by_shared = gpu.shared_bytes // (used.shared_bytes + 1024)
    by_registers = 65536 // (max(1, used.registers) * warps * 32)
    return max(1, min(by_shared, by_registers, 64 // warps))


def _mean(loops: Sequence[Loop], name: str) -> float:
    return sum(getattr(loop, name) for loop in loops) / len(loops) if loops else 0.0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m kdcache_kernels.model", description=__doc__)
    parser.add_argument("--arch", default="sm_90", choices=sorted(GPUS), help="for which GPU (default: sm_90)")
    parser.add_argument("--filter", default="", metavar="RE", help="only operations whose name it matches")
    parser.add_argument("--json", type=Path, metavar="FILE", help="default: the file that the package has for the GPU")
    either = parser.add_mutually_exclusive_group()
    either.add_argument("--write", action="store_true", help="write the file")
    either.add_argument("--check", action="store_true", help="compare with the file; 1 if an operation became worse")
    return parser


if __name__ == "__main__":
    sys.exit(main())
