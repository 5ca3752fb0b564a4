"""The process group of a training run, and the few collectives it needs."""

import datetime
import gc
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist

from kdcache.distributed.env import WorkerEnv
from kdcache.distributed.roll_call import RollCall
from kdcache.errors import RankLostError, UsageError

# gloo's own limit is 30 minutes; a rank that hangs should not cost that much.
RANK_TIMEOUT_S = 300.0
# What gloo and NCCL write into a RuntimeError; there is no class for all of it.
_LOST = re.compile(r"gloo|nccl|Timed out|timeout|Connection (closed|reset)|Broken pipe|Socket", re.IGNORECASE)
_LONGEST = 200


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
def process_group(env: WorkerEnv, device: torch.device, *, timeout_s: float = RANK_TIMEOUT_S) -> Iterator[None]:
    """Join the job's process group for the duration of the block; nothing happens for a job of one.

    Args:
        env: This rank.
        device: Where it computes.
        timeout_s: Seconds for which the other ranks may not answer, at the beginning or in any collective.

    Raises: RankLostError where they do not, or where one has ended, naming those that are missing, within `ROLL_CALL_S`
        of the failed collective.
    """
    if env.world_size == 1:
        yield
        return
    try:
        roll_call = _join(env, device, timeout_s)
    except (RuntimeError, ValueError) as error:
        raise RankLostError(
            f"rank {env.rank}: the {env.world_size} ranks that RANK and WORLD_SIZE in the environment speak of did not "
            f"meet within {timeout_s:g} s ({_first_line(error)}); start all of them with torchrun or srun, or run "
            "alone after `unset RANK WORLD_SIZE LOCAL_RANK MASTER_ADDR MASTER_PORT`"
        ) from None
    try:
        yield
    except RuntimeError as error:
        if not (isinstance(error, dist.DistError) or _LOST.search(str(error))):
            raise
        dist.destroy_process_group()  # the ranks that wait for this one notice
        raise RankLostError(
            f"rank {env.rank}: {_lost(roll_call, env)}, or did not answer for {timeout_s:g} s "
            f"({_first_line(error)}); what was saved is safe. Its own output says more: end what is left of the job, "
            "and run the same command again to resume"
        ) from None
    finally:
        if dist.is_initialized():
            gc.collect()  # models that hold the group, see `Trainer.close`
            dist.destroy_process_group()


def _join(env: WorkerEnv, device: torch.device, timeout_s: float) -> RollCall:
    timeout = datetime.timedelta(seconds=timeout_s)
    store, _, _ = next(dist.rendezvous("env://", env.rank, env.world_size, timeout=timeout))
    store.set_timeout(timeout)
    # torchrun restarts a group on the store of the one before it.
    store = dist.PrefixStore(f"kdcache/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=env.rank, world_size=env.world_size, timeout=timeout)
    return RollCall(store, env)


def _lost(roll_call: RollCall, env: WorkerEnv) -> str:
    """Which ranks have ended, in words."""
    missing = roll_call.missing()
    if not missing:
        return f"one of the {env.world_size} ranks has ended"
    named = [f"{rank} ({place})" if (place := roll_call.place(rank)) else f"{rank}" for rank in missing]
    if len(named) == 1:
        return f"rank {named[0]} of {env.world_size} has ended"
    return f"ranks {', '.join(named)} of {env.world_size} have ended"


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n", 1)[0][:_LONGEST]


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
