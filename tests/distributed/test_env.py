import socket

import pytest

from kdcache.distributed import worker_env
from kdcache.errors import UsageError

TORCHRUN = {
    "TORCHELASTIC_RUN_ID": "none", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500",
    "RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1",
}  # fmt: skip


def test_a_process_on_its_own() -> None:
    first, second = worker_env({}), worker_env({})
    assert (first.rank, first.world_size, first.local_rank, first.is_main) == (0, 1, 0, True)
    assert first.job_id != second.job_id


def test_torchrun() -> None:
    env = worker_env(TORCHRUN)
    assert (env.rank, env.world_size, env.local_rank, env.is_main) == (3, 8, 1, False)
    assert env.job_id == worker_env({**TORCHRUN, "RANK": "0"}).job_id
    assert env.job_id != worker_env({**TORCHRUN, "MASTER_PORT": "29501"}).job_id


SRUN = {
    "SLURM_PROCID": "2", "SLURM_NTASKS": "8", "SLURM_STEP_NUM_TASKS": "4", "SLURM_LOCALID": "0", "SLURM_JOB_ID": "77",
    "SLURM_STEP_ID": "3",
}  # fmt: skip


def test_a_slurm_array_as_the_documents_name_its_tasks() -> None:
    """Its tasks are one job; a task that is submitted again alone takes what is pending."""
    array = {"SLURM_PROCID": "0", "SLURM_NTASKS": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "slurm-array"}
    first, last = (worker_env({**array, "RANK": rank, "WORLD_SIZE": "2", "MASTER_PORT": "812"}) for rank in ("0", "1"))
    assert [(env.rank, env.world_size, env.local_rank) for env in (first, last)] == [(0, 2, 0), (1, 2, 0)]
    assert first.job_id == last.job_id
    assert first.job_id != worker_env({**array, "RANK": "0", "WORLD_SIZE": "2", "MASTER_PORT": "813"}).job_id
    assert worker_env({**array, "RANK": "0", "WORLD_SIZE": "1", "MASTER_PORT": "814"}).world_size == 1


def test_srun() -> None:
    env = worker_env(SRUN)
    assert (env.rank, env.world_size, env.local_rank) == (2, 4, 0), "those of the step, not of the whole allocation"
    assert env.text == "worker 2 of 4, as srun says"
    assert env.job_id == worker_env({**SRUN, "SLURM_PROCID": "0"}).job_id
    assert env.job_id != worker_env({**SRUN, "SLURM_STEP_ID": "4"}).job_id
    assert worker_env({**SRUN, "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}).world_size == 1


def test_a_batch_script_of_slurm_is_one_process() -> None:
    """It has the tasks of its allocation in the environment, of which srun would start as many: an eighth of the
    shards would be done, and nobody would do the rest."""
    script = {name: value for name, value in SRUN.items() if "STEP" not in name} | {"SLURM_PROCID": "0"}
    assert worker_env(script).world_size == 1


@pytest.mark.parametrize("name", ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE"])
def test_what_mpirun_sets_is_recognised(name: str) -> None:
    with pytest.raises(UsageError, match=f"{name}=8 .*Start them with torchrun or srun, .*`unset {name}`"):
        worker_env({name: "8", "OMPI_COMM_WORLD_RANK": "3"})
    assert worker_env({name: "1"}).world_size == 1
    assert worker_env({**TORCHRUN, name: "8"}).text == "worker 3 of 8, as RANK and WORLD_SIZE in the environment say"
    assert worker_env({**SRUN, name: "4"}).world_size == 4


@pytest.mark.parametrize(
    ("environ", "problem"),
    [
        ({"RANK": "3", "WORLD_SIZE": "8"}, "no MASTER_ADDR and MASTER_PORT"),
        ({"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}, "no MASTER_ADDR and MASTER_PORT"),
        ({**TORCHRUN, "MASTER_PORT": "", "LOCAL_RANK": "1"}, "no MASTER_ADDR and MASTER_PORT"),
        (
            {**TORCHRUN, "TORCHELASTIC_USE_AGENT_STORE": "True", "MASTER_PORT": "1"},
            "no torchrun answers at 127.0.0.1:1",
        ),
    ],
)
def test_what_is_left_over_of_another_job_is_named(environ: dict[str, str], problem: str) -> None:
    with pytest.raises(UsageError, match=problem) as caught:
        worker_env(environ)
    for name in environ.keys() & {"RANK", "WORLD_SIZE", "MASTER_ADDR", "LOCAL_RANK", "TORCHELASTIC_RUN_ID"}:
        assert name in str(caught.value).partition("`unset ")[2]


def test_a_torchrun_that_answers_is_believed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        environ = {**TORCHRUN, "TORCHELASTIC_USE_AGENT_STORE": "True", "MASTER_PORT": port}
        assert worker_env(environ).world_size == 8


def test_one_worker_is_a_job_of_its_own() -> None:
    """Left over or not: two such processes are not one job, and may not share a lock."""
    one = {"RANK": "0", "WORLD_SIZE": "1"}
    assert worker_env(one).job_id != worker_env(one).job_id


@pytest.mark.parametrize("changes", [{"RANK": "x"}, {"RANK": "9"}, {"WORLD_SIZE": ""}])
def test_contradictions(changes: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="torchrun"):
        worker_env({**TORCHRUN, **changes})
