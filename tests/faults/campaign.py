"""Real faults, seeded: `python -m tests.faults.campaign --count 1000 --out report.json`.

Every fault is followed to its end. It is detected when a reader or `verify` refuses what is there, harmless when
everything read is as before, and lost when the advice followed does not bring back the very bytes. What must be zero:
undetected, lost, and exceptions that are not the project's.
"""

import argparse
import errno
import gc
import json
import random
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from benchmarks.record import environment
from kdcache.cache.verify import Fault
from kdcache.cli.main import main as kdcache
from kdcache.errors import KdcacheError, Remedy
from tests.cache.support import all_faults
from tests.cache.test_storage_faults import FAULT
from tests.faults.damage import KINDS, damage
from tests.faults.world import (
    World,
    copy_of,
    extract_all,
    outcome_of,
    records_of,
    student_of,
    train_to,
    visible_files,
)

# Of damaged caches; each takes a teacher pass.
_RESTORED_EVERY = 4
_REFUSALS = (errno.EIO, errno.ENOSPC, errno.EMFILE, errno.ESTALE, errno.ENOMEM)
_REBUILT = {Remedy.REBUILD, Remedy.REBUILD_OR_DELETE_GROUP}
_DETECTED, _HARMLESS, _RESTORED, _REBUILT_ANEW = "detected", "harmless", "restored", "rebuilt"
_UNDETECTED, _LOST, _CRASHED = "UNDETECTED", "LOST", "CRASHED"


@dataclass(frozen=True)
class Outcome:
    """A fault and what became of it.

    Args:
        number: The campaign's seed and this number give the fault again.
        subject: cache, run, or the work that was refused.
        file: Which.
        kind: What happened to it.
        results: What became of it, at every stage.
        words: Of the error or exception.
    """

    number: int
    subject: str
    file: str
    kind: str
    results: tuple[str, ...]
    words: str = ""

    @property
    def is_bad(self) -> bool:
        """Whether nobody noticed, something is gone, or a user sees a traceback."""
        return any(result.isupper() for result in self.results)


Trial = Callable[[World, Path, random.Random, int], Outcome]


def damaged_cache(world: World, scratch: Path, draw: random.Random, number: int) -> Outcome:
    """A file of a finished cache is damaged, then read, verified, and every fourth time restored as advised."""
    root = copy_of(world.cache, scratch / "cache")
    file, kind = _damaged(root, draw)
    read, found = outcome_of(records_of, root), outcome_of(all_faults, root)
    words = str(read if isinstance(read, KdcacheError) else found or "")
    # A group whose manifest is damaged is left out, and named by verify; what is read must be right.
    if not isinstance(read, KdcacheError) and not read.items() <= world.records.items():
        return Outcome(number, "cache", file, kind, (_UNDETECTED,), "other records were read")
    is_found = isinstance(found, KdcacheError) or bool(found)
    if not is_found and not _is_of_a_job(file) and not _says_the_same(world.cache / file, root / file):
        return Outcome(number, "cache", file, kind, (_UNDETECTED,), "verify found nothing")
    results = [_DETECTED if is_found else _HARMLESS]
    if number % _RESTORED_EVERY == 0:
        result, why = _restored(world, root, found)
        results.append(result)
        words = why or words
    return Outcome(number, "cache", file, kind, tuple(results), words)


def damaged_run(world: World, scratch: Path, draw: random.Random, number: int) -> Outcome:
    """A file of a finished run is damaged; it is evaluated, then trained for another epoch."""
    run = copy_of(world.run, scratch / "run")
    file, kind = _damaged(run, draw)
    read = outcome_of(student_of, run)
    if not isinstance(read, KdcacheError) and read != world.student:
        return Outcome(number, "run", file, kind, (_UNDETECTED,), "another student was read")
    trained = outcome_of(lambda: train_to(world.cache, run, epochs=2))
    if isinstance(trained, KdcacheError):
        return Outcome(number, "run", file, kind, (_DETECTED,), str(trained))
    if student_of(run) not in world.longer:
        return Outcome(number, "run", file, kind, (_UNDETECTED,), "training went on from something else")
    return Outcome(number, "run", file, kind, (_DETECTED if isinstance(read, KdcacheError) else _HARMLESS, _RESTORED))


def refused_extraction(world: World, scratch: Path, draw: random.Random, number: int) -> Outcome:
    """The operating system refuses one step of a pass; the same pass again gives the very files."""
    root = scratch / "refused"
    shutil.rmtree(root, ignore_errors=True)
    code, step = draw.choice(_REFUSALS), draw.randrange(1, 220)
    with FAULT.injected(root, step, code):
        refused = outcome_of(extract_all, root)
    again = outcome_of(extract_all, root)
    same = not isinstance(again, KdcacheError) and visible_files(root) == world.hashes
    results = (_DETECTED if isinstance(refused, KdcacheError) else _HARMLESS, _RESTORED if same else _LOST)
    return Outcome(number, "extract", f"step {step}", errno.errorcode[code], results, str(again or refused or ""))


def refused_training(world: World, scratch: Path, draw: random.Random, number: int) -> Outcome:
    """The operating system refuses one step of a run; the same run again ends with the very student."""
    run = scratch / "trained"
    shutil.rmtree(run, ignore_errors=True)
    code, step = draw.choice(_REFUSALS), draw.randrange(1, 60)
    with FAULT.injected(run, step, code):
        refused = outcome_of(lambda: train_to(world.cache, run, epochs=1))
    again = outcome_of(lambda: train_to(world.cache, run, epochs=1))
    same = not isinstance(again, KdcacheError) and student_of(run) == world.student
    results = (_DETECTED if isinstance(refused, KdcacheError) else _HARMLESS, _RESTORED if same else _LOST)
    return Outcome(number, "train", f"step {step}", errno.errorcode[code], results, str(again or refused or ""))


# How often of sixteen.
_TRIALS: dict[Trial, int] = {damaged_cache: 11, damaged_run: 3, refused_extraction: 1, refused_training: 1}


def run_campaign(count: int, seed: int, folder: Path, first: int = 0) -> list[Outcome]:
    """Inject the faults of some numbers, from the first up to the count; a fault is a function of seed and number."""
    world, outcomes = World(folder / "world"), list[Outcome]()
    chosen = [trial for trial, times in _TRIALS.items() for _ in range(times)]
    for number in range(first, count):
        trial = chosen[number % len(chosen)]
        scratch = folder / "scratch"
        scratch.mkdir(exist_ok=True)
        try:
            outcomes.append(trial(world, scratch, random.Random(f"{seed} {number}"), number))
        except Exception as error:  # what a user would see as a traceback
            outcomes.append(Outcome(number, trial.__name__, "", "", (_CRASHED,), _where(error)))
        # What a refused pass had open it leaves to the end of its process; here many share one.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()
    return outcomes


def summary(outcomes: list[Outcome]) -> dict[str, object]:
    """Counts by subject and result, and every bad outcome in full."""
    counts = Counter((outcome.subject, result) for outcome in outcomes for result in outcome.results)
    return {
        "injected": len(outcomes),
        "results": {f"{subject}: {result}": count for (subject, result), count in sorted(counts.items())},
        "kinds": dict(sorted(Counter(outcome.kind for outcome in outcomes).items())),
        "bad": [asdict(outcome) for outcome in outcomes if outcome.is_bad],
    }


def _damaged(root: Path, draw: random.Random) -> tuple[str, str]:
    """Damage one file below a folder: any sort of file alike, any kind alike."""
    sorts: dict[str, list[Path]] = {}
    for path in sorted(root.rglob("*")):
        if path.is_file() and path.stat().st_size:
            sorts.setdefault(f"{path.parent.relative_to(root)}/{path.suffix}", []).append(path)
    while True:
        files = sorts[draw.choice(sorted(sorts))]
        path, kind = draw.choice(files), draw.choice(sorted(KINDS))
        siblings = [each for each in files if each != path] or [path]
        if damage(path, kind, draw, draw.choice(siblings)):
            return path.relative_to(root).as_posix(), kind


def _where(error: Exception) -> str:
    *_, last = traceback.extract_tb(error.__traceback__)
    return f"{type(error).__name__}: {error} ({Path(last.filename).name}, line {last.lineno})"


def _is_of_a_job(file: str) -> bool:
    """Whether only a running extraction needs it: locks, attempts, plans of what is finished."""
    return "job" in Path(file).parts


def _says_the_same(original: Path, damaged: Path) -> bool:
    """Whether a file with a digest lost no more than the end of its line."""
    if original.suffix != ".sha256" or not damaged.is_file():
        return False
    return original.read_bytes().strip() == damaged.read_bytes().strip()


def _restored(world: World, root: Path, found: list[Fault] | KdcacheError) -> tuple[str, str]:
    """Follow the advice, rebuild or repair; then the same passes again."""
    advised = {found.remedy} if isinstance(found, KdcacheError) else {fault.remedy for fault in found}
    if advised & _REBUILT:
        kdcache(["verify", str(root), "--rebuild"])
        found = outcome_of(all_faults, root)
    if found and not isinstance(found, KdcacheError):
        kdcache(["verify", str(root), "--repair"])
    again = outcome_of(extract_all, root)
    if isinstance(again, KdcacheError):
        return _LOST, str(again)
    if visible_files(root) == world.hashes:
        return _RESTORED, ""
    # A rebuilt index has statistics of what the tars hold, not of what the teacher gave: another identity, all records.
    whole = advised & _REBUILT and not all_faults(root) and records_of(root) == world.records
    return (_REBUILT_ANEW, "") if whole else (_LOST, "other files than before")


def main() -> int:
    """Run a campaign; exits with 1 where anything was undetected, lost or a traceback."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.campaign", description=__doc__)
    parser.add_argument("--count", type=int, default=300, metavar="N", help="faults to inject (300)")
    parser.add_argument("--seed", type=int, default=0, help="of all draws (0)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the report as JSON")
    arguments = parser.parse_args()
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        outcomes = run_campaign(arguments.count, arguments.seed, Path(folder))
    report = {**environment(torch.device("cpu")), "seed": arguments.seed, **summary(outcomes)}
    report["seconds"] = round(time.perf_counter() - started)
    text = json.dumps(report, indent=1)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n")
    return 1 if report["bad"] else 0


if __name__ == "__main__":
    sys.exit(main())
