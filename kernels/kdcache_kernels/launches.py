"""What an operation would launch on a GPU, recorded on tensors without data: no GPU, and nothing is computed."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten
from triton.runtime.jit import JITFunction

from kdcache_kernels.device import projection
from kdcache_kernels.device.case import Case

_TYPES = {
    torch.float32: "*fp32",
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.int8: "*i8",
    torch.int32: "*i32",
    torch.float8_e4m3fn: "*fp8e4nv",
}
_OPTIONS = ("num_warps", "num_stages")


class Traffic(TorchDispatchMode):
    """Counts torch operations that would launch on a GPU, the bytes they read and write, and live memory.

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
        """Bytes of the tensors made here that live now."""
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


@dataclass(frozen=True, kw_only=True)
class Launch:
    """One launch of a Triton kernel.

    Args:
        case: What it compiles to.
        grid: Programs along each axis.
        values: Numbers by the names of their arguments, compile-time ones included.
        bytes: Of its different tensors together, each once.
    """

    case: Case
    grid: tuple[int, ...]
    values: Mapping[str, int]
    bytes: int

    @property
    def num_programs(self) -> int:
        """Programs of the whole grid."""
        number = 1
        for size in self.grid:
            number *= size
        return number


@dataclass
class Recording:
    """What was launched: Triton's kernels in their order, and torch's operations.

    Attributes:
        kernels: One entry a launch.
        traffic: Of torch's own operations.
    """

    kernels: list[Launch] = field(default_factory=list)
    traffic: Traffic = field(default_factory=Traffic)


@contextmanager
def recorded(num_multiprocessors: int) -> Iterator[Recording]:
    """Record, and compute nothing: for tensors on the device ``meta``.

    Args:
        num_multiprocessors: Of the GPU pretended; the sweeps split the tokens by it.
    """
    recording = Recording()

    def run(kernel: Any, *arguments: Any, grid: Any, warmup: bool, **named: Any) -> None:
        recording.kernels.append(_launch(kernel, arguments, grid, named))

    with (
        patch.object(JITFunction, "run", run),
        patch.object(projection, "num_programs", lambda tensor: num_multiprocessors),
        recording.traffic,
    ):
        yield recording


def _launch(kernel: Any, arguments: tuple[Any, ...], grid: Any, named: Mapping[str, Any]) -> Launch:
    given = dict(zip(kernel.arg_names, arguments, strict=False)) | {
        name: value for name, value in named.items() if name not in _OPTIONS
    }
    constants, types, ragged, tensors = {}, {}, set(), {}
    for parameter in kernel.params:
        name, value = parameter.name, given[parameter.name]
        if parameter.is_constexpr:
            constants[name] = value
        elif isinstance(value, Tensor):
            types[name] = _TYPES[value.dtype]
            # A stand-in for what is absent is never read, and is mostly a tensor that is there anyway.
            tensors[value.untyped_storage()._cdata, value.storage_offset()] = value.numel() * value.element_size()
        elif isinstance(value, float):
            types[name] = "fp32"
        else:
            types[name] = "i32" if value < 2**31 else "i64"
            if parameter.do_not_specialize or value % 16:
                ragged.add(name)
    case = Case(
        name=kernel.__name__,
        kernel=kernel,
        types=types,
        constants=constants,
        num_warps=named.get("num_warps", 4),
        num_stages=named.get("num_stages", 3),
        ragged=frozenset(ragged),
    )
    numbers = {name: value for name, value in given.items() if isinstance(value, int)}
    return Launch(case=case, grid=tuple(grid), values=numbers, bytes=sum(tensors.values()))
