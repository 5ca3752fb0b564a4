"""``python -m kdcache_kernels.lint``: compile all kernels for GPUs that are not there, refuse slow or wrong code."""

import argparse
import json
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import triton

from kdcache_kernels import aot
from kdcache_kernels.aot import TARGETS, Report
from kdcache_kernels.device.kernel import Kernel
from kdcache_kernels.device.kernels import KERNELS

# What an architecture's full rate needs; a tile of fewer than 64 rows gets the older HMMA on Hopper.
_MATRIX_INSTRUCTIONS = {"sm_90": "HGMMA", "sm_100": "UTC", "sm_103": "UTC"}


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What is wrong with one case: what was found, what was wanted, what to do.

    Args:
        breaks: Whether a launch would fail or give wrong numbers, and not only be slow.
    """

    found: str
    wanted: str
    remedy: str
    breaks: bool = False

    def __str__(self) -> str:
        return f"{self.found}; wanted {self.wanted}; {self.remedy}"


def faults_of(report: Report) -> list[Fault]:
    """Everything that a strict target does not forgive."""
    used = report.resources
    if used is None:
        return [Fault(found=f"does not compile: {report.error}", wanted="code", remedy="see the message", breaks=True)]
    faults = []
    if used.spill_bytes:
        found = f"{used.spill_bytes} bytes of spills at {used.registers} registers"
        remedy = "take smaller tiles, more warps, or split the accumulator"
        faults.append(Fault(found=found, wanted="none", remedy=remedy))
    if used.shared_bytes > used.shared_limit_bytes:
        found = f"{used.shared_bytes:,} bytes of shared memory"
        remedy = "take fewer stages or smaller tiles; the launch would fail"
        faults.append(Fault(found=found, wanted=f"at most {used.shared_limit_bytes:,}", remedy=remedy, breaks=True))
    if used.serialised:
        remedy = "put tl.assume(count > 0) or a constexpr bound before the loop that holds the product"
        faults.append(Fault(found="a wait after every wgmma (C7515)", wanted="pipelined products", remedy=remedy))
    if aot.exposed_to_hazard(used):
        version = "unknown" if used.ptxas is None else "{}.{}".format(*used.ptxas)
        remedy = "set num_stages=1 for this format, or assemble with ptxas 13.3 or newer (TRITON_PTXAS_PATH)"
        found = f"a pipelined wgmma with a register operand from ptxas {version} (triton#9433: wrong sums)"
        faults.append(Fault(found=found, wanted="no operand in registers, or no pipeline", remedy=remedy, breaks=True))
    if used.refilled_while_read:
        remedy = "use a tile in products or in other arithmetic, not in both; or set num_stages=1"
        found = "a copy into a buffer that a product in flight still reads (triton#7110: wrong sums)"
        faults.append(Fault(found=found, wanted="as many slots as stages", remedy=remedy, breaks=True))
    return faults + (_product_faults(report) if report.has_products else [])


def _product_faults(report: Report) -> list[Fault]:
    used = report.resources
    assert used is not None
    faults = []
    wanted = _MATRIX_INSTRUCTIONS.get(report.target, "")
    if not any(name.startswith(wanted) for name in used.matrix_instructions):
        remedy = "check the tile sizes and operand types of tl.dot, or say has_products=False"
        faults.append(Fault(found="no matrix instruction", wanted=wanted or "one at least", remedy=remedy))
    if not report.narrow_loads and (used.wide_loads == 0 or used.small_loads):
        found = f"{used.wide_loads} loads of 16 bytes and {used.small_loads} of one or two"
        remedy = "check row strides and masks, and `ragged` of the case"
        faults.append(Fault(found=found, wanted="16-byte loads and none of one or two bytes", remedy=remedy))
    return faults


def find_kernels(modules: Sequence[str] = ()) -> list[Kernel]:
    """Those of the modules named, each its ``KERNEL``, else all of ``kdcache_kernels.device``."""
    return [aot.kernel_of(name) for name in modules] or list(KERNELS)


def lint(jobs: Sequence[tuple[str, int, str]]) -> Iterable[Report]:
    """Compile (module, position in its ``cases()``, target) on as many processes as there are cores; in order."""
    return aot.on_all_cores(aot.report_case, jobs)


def describe(report: Report) -> str:
    """One line for one case."""
    head = f"{report.target:7s} {report.name:44s} warps {report.num_warps:<2d} stages {report.num_stages}"
    used = report.resources
    if used is None:
        return f"{head} did not compile"
    products = " ".join(f"{name} {count}" for name, count in used.matrix_instructions.items())
    shared = f"{used.shared_bytes / 1024:.0f} of {used.shared_limit_bytes // 1024} KiB"
    return (
        f"{head} registers {used.registers:3d} spills {used.spill_bytes} stack {used.stack_bytes} shared {shared} "
        f"loads wide {used.wide_loads} small {used.small_loads} {products or 'no products'} ({report.seconds:.1f} s)"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0 if no strict target has a fault, 1 if one has, 2 if it was asked wrongly."""
    parser = _parser()
    options = parser.parse_args(arguments)
    targets = options.targets.split(",")
    strict = set(options.strict.split(",")) if options.strict is not None else {"sm_90"} & set(targets)
    if unknown := sorted({*targets, *strict} - set(TARGETS)):
        parser.error(f"unknown target {', '.join(unknown)}; this knows {', '.join(TARGETS)}")
    if absent := sorted(strict - set(targets)):
        parser.error(f"strict target {', '.join(absent)} is not among --targets {options.targets}")
    try:
        aot.require_compiler()
    except RuntimeError as error:
        parser.error(str(error))
    jobs = _jobs(find_kernels(options.modules), targets, options.filter)
    if not jobs:
        parser.error(f"no case to compile matches --filter {options.filter!r}")
    rows, num_faults = [], 0
    for report in lint(jobs):
        found = faults_of(report)
        print(describe(report), flush=True)
        for fault in found:
            print(
                f"{'FAULT' if report.target in strict else 'note '} {report.target} {report.name}: {fault}", flush=True
            )
        num_faults += len(found) if report.target in strict else 0
        rows.append({**asdict(report), "faults": [str(fault) for fault in found]})
    if options.json:
        text = json.dumps({"triton": triton.__version__, "strict": sorted(strict), "cases": rows}, indent=1)
        options.json.write_text(text + "\n", encoding="utf-8")
    strictly = f"faults on {', '.join(sorted(strict))}: {num_faults}" if strict else "no target was strict"
    print(f"{len(rows)} compiled for {', '.join(targets)} with Triton {triton.__version__}; {strictly}")
    return 1 if num_faults else 0


def _jobs(kernels: Iterable[Kernel], targets: Iterable[str], pattern: str) -> list[tuple[str, int, str]]:
    wanted = [
        (kernel.module, number)
        for kernel in kernels
        for number, case in enumerate(kernel.cases())
        if re.search(pattern, case.name)
    ]
    return [(*case, target) for target in targets for case in wanted]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m kdcache_kernels.lint", description=__doc__)
    parser.add_argument("modules", nargs="*", metavar="MODULE", help="default: all of kdcache_kernels.device")
    parser.add_argument("--targets", default="sm_90", help=f"comma-separated, of {', '.join(TARGETS)} (default: sm_90)")
    parser.add_argument("--strict", help="those of the targets that decide the exit status (default: sm_90)")
    parser.add_argument("--filter", default="", metavar="RE", help="only cases whose name it matches")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything found")
    return parser


if __name__ == "__main__":
    sys.exit(main())
