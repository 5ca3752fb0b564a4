"""Kills the command `kdcache extract --add` at random moments. Run as a program.

A process of its own that loads everything once and forks: starting Python and torch for every kill takes minutes.
Nothing is computed before a fork, so no thread is lost by it.
"""

import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import kdcache.teacher.extract  # noqa: F401 - loaded before the forks
from kdcache.cli.main import main as command


def in_child(words: list[str], kill_after_s: float | None) -> bool:
    """Run the command in a forked process; returns whether it was killed before it ended."""
    pid = os.fork()
    if pid == 0:
        sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - the process ends with it
        os._exit(command(words))
    if kill_after_s is not None:
        time.sleep(kill_after_s)
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    if not os.WIFSIGNALED(status) and os.WEXITSTATUS(status):
        raise SystemExit(f"the command failed with {os.WEXITSTATUS(status)}")
    return os.WIFSIGNALED(status)


def main(start: Path, folder: Path, words: list[str]) -> None:
    """Ten kills, each followed by what lies there then and by a rerun; prints the hashes as JSON."""
    from tests.integration.crash_sweep import visible_files

    whole = Path(shutil.copytree(start, folder / "whole"))
    began = time.monotonic()
    in_child([*words, "--out", str(whole)], None)
    seconds = time.monotonic() - began
    moments = random.Random(0)
    found = []
    for number in range(10):
        root = Path(shutil.copytree(start, folder / f"cut-{number}"))
        after_s = moments.uniform(0.02, 0.98) * seconds
        killed = in_child([*words, "--out", str(root)], after_s)
        seen = visible_files(root)
        in_child([*words, "--out", str(root)], None)
        found.append({"killed": killed, "after_s": after_s, "seen": seen, "rerun": visible_files(root)})
    print(
        json.dumps({"seconds": seconds, "before": visible_files(start), "whole": visible_files(whole), "cuts": found})
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
