from pathlib import Path

import torch

from kdcache.distributed import WorkerEnv
from kdcache.distributed.env import worker_env
from kdcache.distributed.process_group import any_rank, choose_device, mean_over_group, process_group, sum_over_ranks
from tests.forked import Forked, free_port

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


def mean_of_two(rank: int, store: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    values = torch.tensor([1.0 + rank, 10.0])
    print(mean_over_group(values).tolist(), values.tolist())
    torch.distributed.destroy_process_group()


def test_two_processes_have_one_mean(tmp_path: Path) -> None:
    ranks = [Forked(mean_of_two, rank, str(tmp_path / "store")) for rank in range(2)]
    found = [rank.communicate().strip() for rank in ranks]
    assert found == ["[1.5, 10.0] [1.0, 10.0]", "[1.5, 10.0] [2.0, 10.0]"]


def sum_of_ranks() -> None:
    env = worker_env()
    with process_group(env, torch.device("cpu")):
        print(sum_over_ranks(torch.tensor([env.rank + 1]), env).tolist())


def test_ranks_of_srun_meet_where_the_environment_says() -> None:
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "SLURM_STEP_NUM_TASKS": "2"}
    ranks = [Forked(sum_of_ranks, environment={**address, "SLURM_PROCID": str(rank)}) for rank in range(2)]
    assert [rank.communicate().strip() for rank in ranks] == ["[3]", "[3]"]
