"""What a computation launches, moves and keeps in memory, counted on tensors without data."""

from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten


class Traffic(TorchDispatchMode):
    """Counts operations that would launch on a GPU, the bytes they read and write, and live memory.

    Attributes:
        launches, names: How many operations, and which.
        bytes: Of every different input and output of each operation.
        live_bytes, peak_bytes: Of tensors made here: those that live now, and the most at a time.
        double_flops: Of matrix products in float64.
    """

    def __init__(self) -> None:
        super().__init__()
        self.launches, self.bytes, self.double_flops, self.peak_bytes = 0, 0, 0, 0
        self.names: list[str] = []
        self._made: dict[int, tuple[StorageWeakRef, int]] = {}

    @property
    def live_bytes(self) -> int:
        self._made = {key: (storage, size) for key, (storage, size) in self._made.items() if not storage.expired()}
        return sum(size for _, size in self._made.values())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.is_view or func.namespace != "aten":
            return result
        given, put_out = (
            {id(each): each for each in tree_flatten(tree)[0] if isinstance(each, Tensor)}
            for tree in ((args, kwargs), result)
        )
        given_storages = {each.untyped_storage()._cdata for each in given.values()}
        for each in put_out.values():
            storage = each.untyped_storage()
            if storage._cdata not in given_storages:
                self._made[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)
        if "empty" in func._schema.name or not put_out:
            return result
        self.launches += 1
        self.names.append(func._schema.name)
        self.bytes += sum(each.numel() * each.element_size() for each in (given | put_out).values())
        if func._schema.name == "aten::mm" and args[0].dtype == torch.float64:
            self.double_flops += 2 * args[0].numel() * args[1].shape[1]
        return result
