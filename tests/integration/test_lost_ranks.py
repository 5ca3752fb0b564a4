"""Two ranks of one training: one stops, dies, or never comes, and the other ends in the stated time, in words."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.test_train import words as train_words

TIMEOUT_S = 6
# Of starting, noticing and ending on a machine that others use.
LIMIT_S = 120


def free_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return str(server.getsockname()[1])


def start(rank: int, port: str, words: list[str]) -> "subprocess.Popen[str]":
    place = {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1"}
    environment = {**os.environ, **place, "MASTER_PORT": port}
    return subprocess.Popen(
        [sys.executable, "-m", "kdcache", *words], stderr=subprocess.PIPE, text=True, env=environment
    )


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.parametrize("end", [signal.SIGSTOP, signal.SIGKILL], ids=["stopped", "killed"])
def test_a_rank_that_stops_or_dies_ends_the_other(end: signal.Signals, tiny_root: Path, tmp_path: Path) -> None:
    more = ["--epochs", "10000", "--set", "log_every=1", "--set", f"rank_timeout_s={TIMEOUT_S}"]
    words, port = train_words(tiny_root, tmp_path / "run", *more), free_port()
    first, second = (start(rank, port, words) for rank in range(2))
    try:
        log = tmp_path / "run" / "metrics.jsonl"
        wait_for(lambda: log.is_file() and log.stat().st_size > 0)
        second.send_signal(end)
        began = time.monotonic()
        message = first.communicate(timeout=LIMIT_S)[1]
        took_s = time.monotonic() - began
    finally:
        second.kill()
        first.kill()
        second.communicate()
    assert first.returncode == 1, message
    assert "Traceback" not in message
    assert "kdcache train: error: rank 0: another of the 2 ranks has ended, or did not answer for 6 s" in message
    assert took_s < 5 * TIMEOUT_S


def test_ranks_that_never_come_are_told_by_the_variables_that_promise_them(tiny_root: Path, tmp_path: Path) -> None:
    words = train_words(tiny_root, tmp_path / "run", "--set", "rank_timeout_s=2")
    alone = start(0, free_port(), words)
    message = alone.communicate(timeout=LIMIT_S)[1]
    assert alone.returncode == 1, message
    assert "rank 0: the 2 ranks that RANK and WORLD_SIZE in the environment speak of did not meet" in message
    assert "Traceback" not in message
