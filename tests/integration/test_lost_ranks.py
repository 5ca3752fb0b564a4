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

from kdcache.cli.main import main
from kdcache.distributed.env import RESTART_VARIABLE
from kdcache.distributed.roll_call import ROLL_CALL_S
from tests.cli.test_train import words as train_words
from tests.forked import command, free_port, place
from tests.train.support import losses

TIMEOUT_S = 6
# Of ending a process of torch on a machine that others use.
OVERHEAD_S = 19
# Of starting, noticing and ending on a machine that others use.
LIMIT_S = 120


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("end", "parallel"),
    [
        pytest.param(signal.SIGSTOP, "ddp", id="stopped", marks=pytest.mark.slow),
        pytest.param(signal.SIGKILL, "ddp", id="killed"),
        pytest.param(signal.SIGKILL, "fsdp", id="killed, divided weights", marks=pytest.mark.slow),
    ],
)
def test_a_rank_that_stops_or_dies_ends_the_other(
    end: signal.Signals, parallel: str, tiny_root: Path, tmp_path: Path
) -> None:
    more = ["--epochs", "10000", "--set", "log_every=1", "--set", f"rank_timeout_s={TIMEOUT_S}"]
    more += ["--set", f"parallel={parallel}"]
    words, port = train_words(tiny_root, tmp_path / "run", *more), free_port()
    first, second = (command(words, **place(rank, port)) for rank in range(2))
    try:
        log = tmp_path / "run" / "metrics.jsonl"
        wait_for(lambda: log.is_file() and log.stat().st_size > 0)
        second.send_signal(end)
        began = time.monotonic()
        message = first.communicate(timeout=LIMIT_S)
        took_s = time.monotonic() - began
    finally:
        second.kill()
        first.kill()
        second.communicate()
    assert first.returncode == 1, message
    assert "Traceback" not in message
    where = f"process {second.pid} on {socket.gethostname()}"
    assert f"kdcache train: error: rank 0: rank 1 ({where}) of 2 has ended, or did not answer for 6 s" in message
    assert took_s < TIMEOUT_S + ROLL_CALL_S + OVERHEAD_S


@pytest.mark.slow
def test_ranks_that_never_come_are_told_by_the_variables_that_promise_them(tiny_root: Path, tmp_path: Path) -> None:
    words = train_words(tiny_root, tmp_path / "run", "--set", "rank_timeout_s=2")
    alone = command(words, **place(0, free_port()))
    message = alone.communicate(timeout=LIMIT_S)
    assert alone.returncode == 1, message
    assert "rank 0: the 2 ranks that RANK and WORLD_SIZE in the environment speak of did not meet" in message
    assert "Traceback" not in message


def rank_process(rank: int, parent: int) -> int:
    """The process that torchrun started as a rank."""
    for number in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
        if f"\0RANK={rank}\0" in Path(f"/proc/{number}/environ").read_text(errors="replace"):
            return int(number)
    raise AssertionError(f"no rank {rank} below {parent}")


@pytest.mark.slow
def test_torchrun_starts_all_ranks_again_and_the_run_goes_on(tiny_root: Path, tmp_path: Path) -> None:
    more = ["--epochs", "8", "--set", "log_every=1", "--set", "checkpoint.every_steps=4", "--set", "parallel=fsdp"]
    assert main(train_words(tiny_root, tmp_path / "whole", *more)) == 0
    words = train_words(tiny_root, tmp_path / "run", *more)
    program = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=1", "-m", "kdcache"]
    environment = {**os.environ, RESTART_VARIABLE: "1"}
    with subprocess.Popen(
        [sys.executable, *program, *words], stderr=subprocess.PIPE, text=True, env=environment
    ) as job:
        try:
            wait_for(lambda: len(list((tmp_path / "run").glob("checkpoints/*.pt"))) > 1)
            os.kill(rank_process(1, job.pid), signal.SIGKILL)
            message = job.communicate(timeout=2 * LIMIT_S)[1]
        finally:
            job.kill()
    assert job.returncode == 0, message
    assert "resuming after step " in message
    found, wanted = losses(tmp_path / "run"), losses(tmp_path / "whole")
    assert len(found) == len(wanted) == 40
    for one, two in zip(found, wanted, strict=True):
        assert one == pytest.approx(two, rel=1e-3, abs=1e-5)
