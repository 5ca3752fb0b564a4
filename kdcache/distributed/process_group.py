"""The process group of a training run, and the few collectives it needs."""

import datetime
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist

from kdcache.distributed.env import WorkerEnv
from kdcache.errors import UsageError

# gloo's own limit is 30 minutes; a rank that died should not cost that much.
TIMEOUT = datetime.timedelta(minutes=5)


def choose_device(name: str, env: WorkerEnv) -> torch.device:
    """``auto``, ``cpu``, ``cuda`` or ``cuda:1`` to the device of this worker.

    Raises: UsageError for other words, and for accelerators that are not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"device {name!r}: wanted auto, cpu, cuda or cuda:1") from None
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", env.local_rank)
    if device.type == "cuda":
        if device.index >= torch.cuda.device_count():
            raise UsageError(
                f"device {device}: there are {torch.cuda.device_count()} CUDA devices that torch can use here"
            )
        torch.cuda.set_device(device)
    return device


@contextmanager
def process_group(env: WorkerEnv, device: torch.device) -> Iterator[None]:
    """Join the job's process group for the duration of the block; nothing happens for a job of one."""
    if env.world_size == 1:
        yield
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=TIMEOUT)
    try:
        yield
    finally:
        dist.destroy_process_group()


def sum_over_ranks(values: torch.Tensor, env: WorkerEnv) -> torch.Tensor:
    """The sum of a tensor over all ranks, on all ranks; the tensor itself for a job of one."""
    if env.world_size > 1:
        values = values.clone()
        dist.all_reduce(values)
    return values


def mean_over_group(values: torch.Tensor) -> torch.Tensor:
    """Average a tensor over the processes of the default group, for all of them; a job of one gets the tensor itself.

    For code inside a model, which knows no WorkerEnv and runs in any training loop.
    """
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return values
    values = values.clone()
    dist.all_reduce(values)
    return values / dist.get_world_size()


def any_rank(flag: bool, env: WorkerEnv, device: torch.device) -> bool:
    """Whether the flag is set on any rank; all ranks get the same answer."""
    if env.world_size == 1:
        return flag
    return bool(sum_over_ranks(torch.tensor(float(flag), device=device), env) > 0)


def from_main(value: Any, env: WorkerEnv) -> Any:
    """Rank 0's value, on all ranks."""
    if env.world_size == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def gather_values(value: Any, env: WorkerEnv) -> list[Any]:
    """The plain values of all ranks, in their order, on all ranks."""
    found = [value] * env.world_size
    if env.world_size > 1:
        dist.all_gather_object(found, value)
    return found
