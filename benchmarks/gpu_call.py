"""Everything that waits for a GPU, in one call: the parts in order of their worth, each with a deadline.

``bash benchmarks/gpu_call.sh`` installs what the lent machine lacks and runs this. A part begins only while its minutes
fit the rest of the call. After each one its results and the log are in the folder of ``--out``, three files in all, so
that a call that is cut off keeps what it has; the same command on the machine that is still warm does the parts that
are not done. ``--unpack`` turns what came back into files of benchmarks/results.

Without a GPU: ``--dry`` checks every command line and runs none, ``--toy`` runs every part at a tiny size.
"""

import argparse
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
_STARTED = time.monotonic()


@dataclass(frozen=True)
class Part:
    """One command.

    Args:
        name: Of its results.
        minutes: It ends after these.
        program: ``benchmarks``, ``kdcache`` or ``pytest``, run as a module.
        words: Its command line; ``{out}`` stands for the folder of its results.
        toy: The command line at toy size; None for a part that has none.
        needs: A path without which it is passed over.
    """

    name: str
    minutes: float
    program: str
    words: Sequence[str]
    toy: Sequence[str] | None = None
    needs: str | None = None


def _words(text: str) -> list[str]:
    return text.split()


_PASS = "teacher_pass --teacher cait_s24_224 --limit 480 --views 2 --batch-size 128 --repeats 2"
_TINY_PASS = "teacher_pass --teacher test_vit --limit 4 --views 1 --batch-size 2 --repeats 1"
# In order of worth: what was built last and never ran on a GPU comes first.
PARTS = [
    Part(
        "check",
        1.5,
        "benchmarks",
        _words("kernels --only check --workers 12 --minutes 1.3 --out {out}/kernels_check.json"),
        _words("kernels --only check --workers 2 --toy --out {out}/kernels_check.json"),
    ),
    Part(
        "tests",
        1.5,
        "pytest",
        _words("-q -n 12 -p no:benchmark -p no:cacheprovider -m gpu tests/integration/test_gpu.py"),
        _words("-q -p no:cacheprovider -m gpu tests/integration/test_gpu.py"),
    ),
    *(
        Part(
            f"teacher_pass_{codec}",
            0.8,
            "benchmarks",
            _words(f"{_PASS} --codec {codec} --out {{out}}/teacher_pass_{codec}.json"),
            _words(f"{_TINY_PASS} --codec {codec} --out {{out}}/teacher_pass_{codec}.json"),
        )
        for codec in ("int8", "fp16")
    ),
    Part(
        "online",
        1.5,
        "benchmarks",
        _words(
            "online --teacher vit_base_patch16_224 --image-size 224 --limit 1792 --batch-size 256 --rounds 4 "
            "--out {out}/online.json"
        ),
        _words(
            "online --teacher test_vit --student test_vit --image-size 160 --limit 8 --batch-size 2 --warm-up 1 "
            "--rounds 1 --out {out}/online.json"
        ),
    ),
    Part(
        "projection",
        2.5,
        "benchmarks",
        _words("kernels --only projection --workers 12 --minutes 2.3 --out {out}/kernels_projection.json"),
        _words("kernels --only projection --toy --out {out}/kernels_projection.json"),
    ),
    Part(
        "demo",
        2,
        "kdcache",
        _words("demo --epochs 6 --seeds 1 --teacher-epochs 8 --out {out}/demo"),
        _words("demo --epochs 1 --seeds 1 --teacher-epochs 1 --out {out}/demo"),
    ),
    Part(
        "statistics",
        2.5,
        "benchmarks",
        _words("kernels --only statistics,share --workers 12 --minutes 2.3 --out {out}/kernels_statistics.json"),
        _words("kernels --only statistics,share --toy --out {out}/kernels_statistics.json"),
    ),
    Part(
        "streaming",
        2.5,
        "benchmarks",
        [
            *_words("streaming --workloads A,B --repeats 5 --out {out}/streaming.json --loaders"),
            "kdcache;kdcache without extension;np.memmap",
        ],
        [
            *_words("streaming --toy --workloads A,B --repeats 2 --seconds 0.01 --cold 1 --out {out}/streaming.json"),
            *_words("--loaders kdcache;np.memmap"),
        ],
    ),
    Part(
        "accuracy",
        9,
        "benchmarks",
        _words("accuracy --grid full --data .whl/cifar10 --work /tmp/kdcache-accuracy --out {out}/accuracy.json"),
        needs=".whl/cifar10",
    ),
]


@dataclass
class Outcome:
    """How a part ended.

    Args:
        name: The part's.
        ended: ``well``, ``with exit code N``, ``at its deadline``.
        seconds: How long it ran.
        files: Its JSON results by file name.
    """

    name: str
    ended: str
    seconds: float
    files: dict[str, Any] = field(default_factory=dict[str, Any])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument("--out", type=Path, help="folder of what comes back: results.jsonl, environment.json, log.txt")
    parser.add_argument("--minutes", type=float, default=7.0, help="of the whole call (7)")
    parser.add_argument("--only", help="names of parts, with commas (all, in order)")
    parser.add_argument(
        "--scratch", type=Path, default=Path("/tmp/kdcache-gpu-call"), help="what a second call resumes"
    )
    parser.add_argument("--dry", action="store_true", help="check every command line, run none")
    parser.add_argument("--toy", action="store_true", help="every part at a tiny size, without a GPU")
    parser.add_argument("--unpack", type=Path, metavar="FILE", help="write the results of a results.jsonl to --out")


def run(arguments: argparse.Namespace) -> int:
    """Run the parts."""
    wanted = arguments.only.split(",") if arguments.only else [part.name for part in PARTS]
    if unknown := sorted(set(wanted) - {part.name for part in PARTS}):
        print(f"no part {', '.join(unknown)}; there are {', '.join(part.name for part in PARTS)}", file=sys.stderr)
        return 2
    parts = [part for part in PARTS if part.name in wanted]
    if arguments.dry:
        return _check(parts)
    if arguments.out is None:
        print("--out: where do the results go?", file=sys.stderr)
        return 2
    if arguments.unpack is not None:
        return _unpack(arguments.unpack, arguments.out)
    call = Call(arguments.out, arguments.scratch, minutes=arguments.minutes, is_toy=arguments.toy)
    return call.run(parts)


@dataclass
class Call:
    """One call.

    Args:
        out: Folder of what comes back.
        scratch: Folder that outlives the call.
        minutes: The whole call.
        is_toy: Whether every part runs at toy size.
    """

    out: Path
    scratch: Path
    minutes: float
    is_toy: bool

    def run(self, parts: Sequence[Part]) -> int:
        """Run what is not done yet; as many parts as fit."""
        self.out.mkdir(parents=True, exist_ok=True)
        self.scratch.mkdir(parents=True, exist_ok=True)
        (self.out / "environment.json").write_text(json.dumps(_environment(), indent=1) + "\n")
        done = {each.name: each for each in _read(self._record) if each.ended == "well"}
        left: list[str] = []
        for part in parts:
            words = part.toy if self.is_toy else part.words
            if part.name in done or words is None or (part.needs and not (ROOT / part.needs).exists()):
                continue
            if self._minutes_left < part.minutes and not self.is_toy:
                left.append(part.name)
                continue
            outcome = self._run(part, words)
            with self._record.open("a") as file:
                file.write(json.dumps(asdict(outcome)) + "\n")
            done[part.name] = outcome
            self._bring_back()
        self._bring_back()
        for outcome in done.values():
            print(f"{outcome.name:20s} {outcome.ended:18s} {outcome.seconds:6.1f} s  {', '.join(outcome.files)}")
        if left:
            print(f"not begun, for want of time: {', '.join(left)}; the same command again does them")
        return 0 if all(each.ended == "well" for each in done.values()) else 1

    @property
    def _record(self) -> Path:
        return self.scratch / "results.jsonl"

    @property
    def _minutes_left(self) -> float:
        return self.minutes - (time.monotonic() - _STARTED) / 60

    def _run(self, part: Part, words: Sequence[str]) -> Outcome:
        folder = self.scratch / part.name
        folder.mkdir(exist_ok=True)
        command = [sys.executable, "-m", part.program, *(word.replace("{out}", str(folder)) for word in words)]
        environment = {**os.environ, **({"TRITON_INTERPRET": "1"} if self.is_toy else {})}
        started = time.monotonic()
        with (self.scratch / "log.txt").open("a") as log:
            log.write(f"\n===== {part.name}: {' '.join(command)}\n")
            log.flush()
            # A session of its own, so that at the deadline its workers end with it.
            process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True
            )
            try:
                code = process.wait(timeout=None if self.is_toy else 60 * part.minutes)
                ended = "well" if code == 0 else f"with exit code {code}"
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                ended = "at its deadline"
        seconds = time.monotonic() - started
        print(f"{part.name}: ended {ended} after {seconds:.1f} s", flush=True)
        results = {path.name: _json(path) for path in sorted([*folder.glob("*.json"), *folder.glob("demo/*.json")])}
        return Outcome(part.name, ended, seconds, results)

    def _bring_back(self) -> None:
        for name in ("results.jsonl", "log.txt"):
            if (self.scratch / name).is_file():
                shutil.copyfile(self.scratch / name, self.out / name)


def _read(path: Path) -> list[Outcome]:
    return [Outcome(**json.loads(line)) for line in path.read_text().splitlines()] if path.is_file() else []


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except ValueError:
        return {"unreadable": path.read_text()[-2000:]}


def _environment() -> dict[str, Any]:
    import torch
    import triton

    from benchmarks.record import environment

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return {**environment(device), "triton": triton.__version__, "python": sys.version.split()[0]}


def _check(parts: Sequence[Part]) -> int:
    """Parse every command line as the program would, and look for every test it names."""
    for part in parts:
        for words in (part.words, part.toy):
            if words is not None:
                _PARSERS[part.program]([word.replace("{out}", "/tmp/out") for word in words])
    total = sum(part.minutes for part in parts)
    print(f"{len(parts)} parts, {total:g} minutes: " + ", ".join(f"{part.name} {part.minutes:g}" for part in parts))
    return 0


def _parse(package: str, words: list[str]) -> None:
    module = importlib.import_module(f"{package}.{words[0]}")
    parser = argparse.ArgumentParser(prog=words[0])
    module.add_arguments(parser)
    parser.parse_args(words[1:])


def _parse_pytest(words: list[str]) -> None:
    for word in words:
        if word.startswith("tests/") and not (ROOT / word).exists():
            raise SystemExit(f"{word}: no such test")


_PARSERS: dict[str, Callable[[list[str]], None]] = {
    "benchmarks": partial(_parse, "benchmarks"),
    "kdcache": partial(_parse, "kdcache.cli"),
    "pytest": _parse_pytest,
}


def _unpack(record: Path, out: Path) -> int:
    """Write each result under the name that benchmarks/results uses: topic, device, month."""
    environment = json.loads((record.parent / "environment.json").read_text())
    device = "_".join(word for word in environment["device"].lower().split() if word in ("h100", "h200")) or "gpu"
    month = environment["date"].replace("-", "")[:6]
    out.mkdir(parents=True, exist_ok=True)
    for outcome in _read(record):
        for name, content in outcome.files.items():
            path = out / f"{Path(name).stem}_{device}_{month}.json"
            path.write_text(json.dumps(content, indent=1) + "\n")
            print(f"wrote {path} ({outcome.name} ended {outcome.ended})")
    return 0
