import os
import socket
import subprocess
import sys
from pathlib import Path

import torch

from kdcache.distributed import WorkerEnv
from kdcache.distributed.process_group import any_rank, choose_device, mean_over_group, process_group, sum_over_ranks

ALONE = WorkerEnv(0, 1, 0, "job")


def test_alone_nothing_is_started() -> None:
    with process_group(ALONE, torch.device("cpu")):
        assert not torch.distributed.is_initialized()
        values = torch.ones(2)
        assert sum_over_ranks(values, ALONE) is values
        assert mean_over_group(values) is values
        assert any_rank(True, ALONE, torch.device("cpu")) is True


def test_devices() -> None:
    assert choose_device("cpu", ALONE) == torch.device("cpu")
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert choose_device("auto", ALONE).type == expected


SCRIPT = """
import sys
import torch
import torch.distributed as dist
from kdcache.distributed.process_group import mean_over_group
rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method=f"file://{sys.argv[2]}", rank=rank, world_size=2)
values = torch.tensor([1.0 + rank, 10.0])
print(mean_over_group(values).tolist(), values.tolist())
dist.destroy_process_group()
"""


def test_two_processes_have_one_mean(tmp_path: Path) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(rank), str(tmp_path / "store")], stdout=subprocess.PIPE, text=True
        )
        for rank in range(2)
    ]
    found = [process.communicate(timeout=240)[0].strip() for process in processes]
    assert found == ["[1.5, 10.0] [1.0, 10.0]", "[1.5, 10.0] [2.0, 10.0]"]


OF_SRUN = """
import torch
from kdcache.distributed.env import worker_env
from kdcache.distributed.process_group import process_group, sum_over_ranks
env = worker_env()
with process_group(env, torch.device("cpu")):
    print(sum_over_ranks(torch.tensor([env.rank + 1]), env).tolist())
"""


def test_ranks_of_srun_meet_where_the_environment_says() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(server.getsockname()[1])}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", OF_SRUN],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **place, "SLURM_PROCID": str(rank), "SLURM_STEP_NUM_TASKS": "2"},
        )
        for rank in range(2)
    ]
    assert [process.communicate(timeout=240)[0].strip() for process in processes] == ["[3]", "[3]"]
