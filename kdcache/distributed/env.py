"""Who this process is among its siblings, read from what torchrun or srun put into the environment."""

import os
import socket
import uuid
from collections.abc import Mapping
from dataclasses import dataclass

from kdcache.errors import UsageError

# torch 2.15 with gloo failed most restarts of an elastic worker group without this (pytorch#135712).
RESTART_VARIABLE = "TORCH_DISABLE_SHARE_RDZV_TCP_STORE"


_LAUNCHER = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID")
# Of Open MPI, of MPICH and Intel MPI, of MVAPICH.
_MPI_SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")
_ANSWER_S = 5.0


@dataclass(frozen=True)
class WorkerEnv:
    """One worker of a job.

    Args:
        rank: 0 to world_size - 1.
        world_size: Workers in the job.
        local_rank: Number on this machine; chooses the accelerator.
        job_id: Equal for the workers of one job, different for every other job.
    """

    rank: int
    world_size: int
    local_rank: int
    job_id: str

    @property
    def text(self) -> str:
        """Which worker this is and who says so; empty for a job of one."""
        if self.world_size == 1:
            return ""
        says = "srun" if self.job_id.startswith("slurm:") else "RANK and WORLD_SIZE in the environment"
        return f"worker {self.rank} of {self.world_size}, as {says} say{'s' * (says == 'srun')}"

    @property
    def is_main(self) -> bool:
        """Whether this worker speaks for the job."""
        return self.rank == 0


def worker_env(environ: Mapping[str, str] = os.environ) -> WorkerEnv:
    """Read the environment; a process started on its own is a job of one.

    Raises: UsageError when the variables contradict each other, or are left over from another job.
    """
    if "TORCHELASTIC_RUN_ID" in environ or ("RANK" in environ and "WORLD_SIZE" in environ):
        rank, world_size = _integer(environ, "RANK"), _integer(environ, "WORLD_SIZE")
        local_rank = _integer(environ, "LOCAL_RANK", rank)
        parts = [environ.get(name, "") for name in ("TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT")]
        job_id = "torchrun:" + ":".join(parts)
    elif "SLURM_PROCID" in environ and "SLURM_STEP_NUM_TASKS" in environ:
        # Of the step that srun started: a batch script has SLURM_PROCID and SLURM_NTASKS too, and is one process.
        rank, world_size = _integer(environ, "SLURM_PROCID"), _integer(environ, "SLURM_STEP_NUM_TASKS")
        local_rank = _integer(environ, "SLURM_LOCALID", 0)
        job_id = f"slurm:{environ.get('SLURM_JOB_ID', '')}:{environ.get('SLURM_STEP_ID', '')}"
    else:
        _refuse_mpi(environ)
        return _alone()
    if not 0 <= rank < world_size:
        raise UsageError(f"rank {rank} of {world_size} workers: the environment is wrong; start with torchrun or srun")
    if world_size == 1:
        return _alone()
    if job_id.startswith("torchrun") and (problem := _launcher_problem(environ)):
        set_ones = [name for name in _LAUNCHER if name in environ]
        raise UsageError(
            f"RANK={rank} and WORLD_SIZE={world_size} are in the environment, but {problem}: they are left over from "
            f"another job. Run alone after `unset {' '.join(set_ones)}`, or start all workers with torchrun or srun"
        )
    return WorkerEnv(rank, world_size, local_rank, job_id)


def _alone() -> WorkerEnv:
    return WorkerEnv(0, 1, 0, f"single:{uuid.uuid4()}")


def _refuse_mpi(environ: Mapping[str, str]) -> None:
    """Refuse what mpirun has set, now or once: as many processes would each do the whole."""
    for name in _MPI_SIZES:
        if environ.get(name, "").isdecimal() and int(environ[name]) > 1:
            raise UsageError(
                f"{name}={environ[name]} is in the environment: mpirun starts no workers of kdcache. Start them with "
                f"torchrun or srun, or run alone after `unset {name}`"
            )


def _launcher_problem(environ: Mapping[str, str]) -> str:
    """Why no launcher can have started this process; empty where one may have."""
    address, port = environ.get("MASTER_ADDR", ""), environ.get("MASTER_PORT", "")
    if not address or not port.isdecimal():
        return "no MASTER_ADDR and MASTER_PORT"
    if environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return ""  # rank 0 will listen there, and may come later than this process
    try:
        socket.create_connection((address, int(port)), timeout=_ANSWER_S).close()
    except (OSError, OverflowError) as error:
        return f"no torchrun answers at {address}:{port} ({error})"
    return ""


def _integer(environ: Mapping[str, str], name: str, default: int | None = None) -> int:
    text = environ.get(name, "" if default is None else str(default))
    if not text.isdecimal():
        raise UsageError(f"environment variable {name} must be a number, got {text!r}; start with torchrun or srun")
    return int(text)
