"""FSDP2: weights, gradients and optimizer state divided among the ranks, and whole again in what is saved."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from timm.optim import get_optimizer_class
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from kdcache.errors import UsageError


def check_divisible(optimizer: str) -> None:
    """Refuse an optimizer that may need a whole weight in order to move one of its elements.

    Args:
        optimizer: timm's name.

    Raises: UsageError for one that is not torch's own.
    """
    if not get_optimizer_class(optimizer, bind_defaults=False).__module__.startswith("torch.optim"):
        raise UsageError(
            f"parallel=fsdp divides every weight among the ranks, which torch's own optimizers know (adamw, sgd, ...) "
            f"and {optimizer} does not; choose one of those, or parallel=ddp"
        )


def divide_module(module: nn.Module, blocks: Sequence[nn.Module], device: torch.device) -> None:
    """Move a module to its device with every parameter divided among the ranks, in place; all ranks call this.

    A block's weights are gathered for its forward and backward alone. All others are gathered from the beginning of
    the module's forward to the end of its backward, so that code in between may read them as plain tensors.

    Args:
        module: Begins with rank 0's parameters and buffers.
        blocks: Modules in it that are run by calling them; none is part of another.
        device: Of this rank.
    """
    for tensor in module.state_dict().values():
        value = tensor.to(device)
        dist.broadcast(value, 0)
        tensor.copy_(value)
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for block in blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(module, mesh=mesh)
    module.to(device)  # buffers that no unit moves


def gather(values: Any, *, keep: bool = True) -> Any:
    """The same nested values with every divided tensor whole, on the CPU; all ranks call this, in the same order.

    Args:
        values: Dictionaries, lists and tuples of tensors and plain values.
        keep: Whether this rank wants them; if not, it takes part and gets None for every tensor.
    """
    if isinstance(values, Mapping):
        return {name: gather(each, keep=keep) for name, each in values.items()}
    if isinstance(values, list | tuple):
        return type(values)(gather(each, keep=keep) for each in values)
    if not isinstance(values, Tensor):
        return values
    whole = values.full_tensor() if isinstance(values, DTensor) else values
    return whole.detach().cpu() if keep else None


def divide_like(values: Mapping[str, Any], like: Mapping[str, Tensor]) -> dict[str, Any]:
    """This rank's part of tensors that every rank has whole.

    Args:
        values: By name.
        like: Tensors divided as they shall be; those of another shape, or that are not divided, stay whole.
    """
    return {name: _part(each, like[name]) if name in like else each for name, each in values.items()}


def divide_optimizer_state(state: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """This rank's part of the whole `state_dict` of an optimizer of the same parameters."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    divided = {
        number: {name: _part(each, parameters[number]) for name, each in of_one.items()}
        for number, of_one in state["state"].items()
    }
    return {**state, "state": divided}


def own_part(tensor: Tensor) -> Tensor:
    """What this rank holds of a tensor, divided or not."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _part(value: Any, like: Tensor) -> Any:
    if not (isinstance(value, Tensor) and isinstance(like, DTensor) and value.shape == like.shape):
        return value
    # Without a source rank nothing is sent: every rank has read the same checkpoint.
    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)
