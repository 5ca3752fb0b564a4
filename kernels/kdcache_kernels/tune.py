"""``python -m kdcache_kernels.tune --arch sm_90``: choose every kernel's settings for a GPU and write its table.

On a GPU of that architecture each candidate is timed and the fastest is taken. Without one it is the first candidate
that compiles to clean code, and the table says that nothing was timed. Code that is clean with an old assembler is so
with a new one, but not the other way round (triton#9433): make a table with the oldest Triton it has to serve.
"""

import argparse
import datetime
import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import triton
from triton.testing import do_bench

from kdcache_kernels import aot
from kdcache_kernels.checked import stamped
from kdcache_kernels.device.kernel import Kernel, Settings
from kdcache_kernels.dispatch import INTERPRETER, architecture
from kdcache_kernels.lint import Fault, faults_of, find_kernels

_TABLES = Path(__file__).parent / "tables"


@dataclass(frozen=True)
class Trial:
    """One candidate and what is known of it.

    Args:
        settings: As ``launch`` takes them.
        faults: What the lint found in its cases.
    """

    settings: Settings
    faults: Sequence[Fault]

    def __str__(self) -> str:
        return f"{dict(self.settings)}: {'; '.join(map(str, self.faults)) or 'clean'}"


def choose_first_clean(trials: Iterable[Trial]) -> Settings | None:
    """Settings of the first trial without a fault, looking at no more than needed; None if all have one."""
    for trial in trials:
        print(f"  {trial}", flush=True)
        if not trial.faults:
            return trial.settings
    return None


def choose_fastest(trials: Iterable[Trial], time_ms: Callable[[Settings], float]) -> Settings | None:
    """Settings of the fastest trial that runs and is right; None if there is none."""
    times: list[tuple[float, Settings]] = []
    for trial in trials:
        if any(fault.breaks for fault in trial.faults):
            print(f"  {trial}", flush=True)
            continue
        try:
            times.append((time_ms(trial.settings), trial.settings))
        except RuntimeError as error:
            # Out of resources, or of memory: the next candidate may do, and the rows before are worth keeping.
            print(f"  {trial}: does not run: {' '.join(str(error).split())[:200]}", flush=True)
            continue
        print(f"  {times[-1][0]:.4f} ms {trial}", flush=True)
    return min(times, key=lambda timed: timed[0])[1] if times else None


def try_all(kernel: Kernel, width: int, arch: str, *, all_cases: bool) -> Iterable[Trial]:
    """Compile a kernel's candidates one by one, as they are asked for.

    Args:
        kernel, width, arch: Whose, as for ``choose_row``.
        all_cases: Go on after a case with a fault: it may be the fastest. Where nothing is timed it is out.
    """
    for settings in kernel.candidates(width):
        faults: list[Fault] = []
        for case in kernel.case(width, settings):
            faults += faults_of(aot.report(case, kernel.module, arch))
            if faults and not all_cases:
                break
        yield Trial(settings, faults)


def chosen_kernels(modules: Sequence[str], pattern: str) -> list[Kernel]:
    """Kernels of the modules named, or all, whose names match a pattern.

    Raises: ValueError if none does.
    """
    kernels = find_kernels(modules)
    chosen = [kernel for kernel in kernels if re.search(pattern, kernel.name)]
    if not chosen:
        names = ", ".join(kernel.name for kernel in kernels)
        raise ValueError(f"no kernel matches --kernels {pattern!r}; there are {names}")
    return chosen


def choose_row(kernel: Kernel, width: int, arch: str, device: torch.device | None) -> Settings | None:
    """Settings for one row of the table; None if no candidate will do.

    Args:
        kernel: Whose row it is.
        width: Where the row is decided.
        arch: As tables are named.
        device: A GPU of that architecture to time on, or None.
    """
    if arch == INTERPRETER:
        return kernel.interpreted or kernel.candidates(width)[0]
    if device is None:
        return choose_first_clean(try_all(kernel, width, arch, all_cases=False))
    trials = try_all(kernel, width, arch, all_cases=True)
    return choose_fastest(trials, lambda settings: _median_ms(kernel.timing(width, settings, device)))


def merge(old: Mapping[str, Any], kernels: Mapping[str, Any], made_by: str, arch: str, timed_on: str | None) -> Any:
    """The new table: kernels not tuned now keep their rows, and it counts as timed only if all of it was.

    What was checked stays, and counts no more for kernels whose rows change.
    """
    kept = {name: rows for name, rows in old.get("kernels", {}).items() if name not in kernels}
    ptxas = None if arch == INTERPRETER else aot.ptxas_version(arch)
    return {
        "made_by": made_by,
        "timed_on": timed_on if not kept or old.get("timed_on") == timed_on else None,
        "checked_on": old.get("checked_on"),
        "checked": old.get("checked", {}),
        "versions": {
            "torch": str(torch.__version__),
            "triton": triton.__version__,
            "ptxas": None if ptxas is None else "{}.{}".format(*ptxas),
        },
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "kernels": dict(sorted({**kept, **kernels}.items())),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0 if every row asked for was decided, 1 if some kernel has no candidate that will do."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        if options.arch != INTERPRETER:
            aot.require_compiler()
        chosen = chosen_kernels(options.modules, options.kernels)
    except (RuntimeError, ValueError) as error:
        parser.error(str(error))
    out = options.out or _TABLES / f"{options.arch}.json"
    if options.checked_on is not None:
        return _stamp(parser, out, options.checked_on)
    device = _gpu(options.arch)
    timed_on = None if device is None else torch.cuda.get_device_name(device)
    num_missing = 0
    for kernel in chosen:
        rows, missing = _rows(kernel, options.arch, device)
        num_missing += missing
        # After every kernel: a run that is cut off keeps what it has, and --kernels goes on from there.
        old = json.loads(out.read_text(encoding="utf-8")) if out.is_file() else {}
        made_by = f"python -m kdcache_kernels.tune --arch {options.arch}"
        table = merge(old, {kernel.name: rows}, made_by, options.arch, timed_on)
        out.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {out}, {'nothing was timed' if timed_on is None else f'timed on {timed_on}'}")
    return 1 if num_missing else 0


def _rows(kernel: Kernel, arch: str, device: torch.device | None) -> tuple[dict[str, Settings], int]:
    """A kernel's rows of the table, and how many no candidate serves."""
    widths = {"*": next(iter(kernel.widths.values()))} if arch == INTERPRETER else kernel.widths
    rows: dict[str, Settings] = {}
    if arch == INTERPRETER or device is not None:
        chosen = [choose_row(kernel, width, arch, device) for width in widths.values()]
    else:
        chosen = list(aot.on_all_cores(_compiled_row, [(kernel.module, width, arch) for width in widths.values()]))
    for row, settings in zip(widths, chosen, strict=True):
        print(f"{kernel.name} {row} on {arch}: {settings}", flush=True)
        if settings is None:
            print(f"  no candidate will do: width {row} gets no row and runs in plain torch", flush=True)
        else:
            rows[row] = dict(settings)
    return rows, len(widths) - len(rows)


def _compiled_row(module: str, width: int, arch: str) -> Settings | None:
    """Made to be called in another process."""
    return choose_row(aot.kernel_of(module), width, arch, None)


def _stamp(parser: argparse.ArgumentParser, out: Path, checked_on: str) -> int:
    if not out.is_file():
        parser.error(f"{out} is not there; make it first, without --checked-on")
    document = stamped(json.loads(out.read_text(encoding="utf-8")), checked_on)
    out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {out}: {len(document['checked'])} kernels checked on {checked_on}")
    return 0


def _gpu(arch: str) -> torch.device | None:
    """A GPU of this architecture, if this machine has one."""
    for index in range(torch.cuda.device_count()):
        device = torch.device("cuda", index)
        if architecture(torch.empty(0, device=device)) == arch:
            torch.cuda.set_device(device)
            return device
    return None


def _median_ms(launch: Callable[[], object]) -> float:
    median: Any = do_bench(launch, return_mode="median")
    return float(median)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m kdcache_kernels.tune", description=__doc__)
    parser.add_argument("modules", nargs="*", metavar="MODULE", help="default: all of kdcache_kernels.device")
    known = [*aot.TARGETS, INTERPRETER]
    parser.add_argument("--arch", required=True, choices=known, help="whose table to write")
    parser.add_argument("--out", type=Path, metavar="FILE", help="default: the table that the package reads")
    parser.add_argument("--kernels", default="", metavar="RE", help="only these; the table keeps the others")
    parser.add_argument(
        "--checked-on",
        metavar="GPU, DATE",
        help="tune nothing: note that all kernels of the table gave right results there, as `python -m benchmarks "
        "kernels` finds, so that they run without being asked for",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
