"""Which form of an operation runs: its Triton kernels, or plain torch.

``KD_KERNELS`` decides: ``torch`` never uses Triton; ``triton`` insists on it and fails where a table has no entry;
``auto`` (the default) uses Triton on a GPU whose table has an entry for the width and whose kernels were checked as
they are now (`kdcache_kernels.checked`), and plain torch everywhere else. What has no kernels runs in plain torch under
each: float64 everywhere, float32 students on a GPU, second moments. The tables lie in ``tables/``, one a GPU
architecture, and are made by ``python -m kdcache_kernels.tune``.
"""

import functools
import importlib.util
import json
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from kdcache_kernels.checked import is_checked

Config = Mapping[str, int]
MODES = ("auto", "torch", "triton")
INTERPRETER = "interpreter"
_TABLES = Path(__file__).parent / "tables"


@dataclass(frozen=True)
class Choice:
    """What runs, and why.

    Args:
        form: ``torch`` or ``triton``.
        reason: One clause for a person.
        configs: Launch settings by kernel name; empty for torch.
    """

    form: Literal["torch", "triton"]
    reason: str
    configs: Mapping[str, Config] = field(default_factory=dict)


_TORCH = Choice("torch", "KD_KERNELS=torch")
_watchers: list[dict[str, str]] = []


@contextmanager
def watch_forms(seen: dict[str, str]) -> Iterator[None]:
    """Note what runs within the block.

    Args:
        seen: Gets the operations with their widths, and form and reason of each: ``torch: KD_KERNELS=torch`` of
            ``proj_mse 192 to 768``. Operations in float64, which have no kernels, may be left out.
    """
    _watchers.append(seen)
    try:
        yield
    finally:
        _watchers.pop()


def noted(operation: str, choice: Choice) -> Choice:
    """The choice, once all who watch have noted it."""
    for seen in _watchers:
        seen[operation] = f"{choice.form}: {choice.reason}"
    return choice


def choose(kernels: Sequence[str], tensor: Tensor, width: int) -> Choice:
    """Decide for one call.

    Args:
        kernels: Names of all kernels the operation would launch; it runs in Triton only if all have an entry.
        tensor: An input, for its device.
        width: The size the tables are keyed by (Ds of a projection, D of a spectrum).

    Raises: ValueError for an unknown KD_KERNELS; RuntimeError where ``KD_KERNELS=triton`` cannot be followed.
    """
    mode = os.environ.get("KD_KERNELS", "auto")
    if mode not in MODES:
        raise ValueError(f"KD_KERNELS must be one of {', '.join(MODES)}, got {mode!r}")
    if mode == "torch":
        return _TORCH
    arch = architecture(tensor)
    if mode == "auto" and arch == INTERPRETER:
        return Choice("torch", "the interpreter runs only under KD_KERNELS=triton")
    return _chosen(tuple(kernels), width, mode, arch, _obstacle(tensor, arch), tensor.is_cuda)


# Remembered, since a step asks up to three times. One decision, read from top to bottom in the order it is taken in.
@functools.lru_cache(maxsize=1024)
def _chosen(kernels: Sequence[str], width: int, mode: str, arch: str, obstacle: str | None, warns: bool) -> Choice:
    table = {} if obstacle else read_table(arch)
    if not obstacle and not table:
        obstacle = f"there is no table for {arch}"
    configs: dict[str, Config] = {}
    for kernel in () if obstacle else kernels:
        entry = table.get(kernel, {}).get(str(width)) or table.get(kernel, {}).get("*")
        if entry is None:
            obstacle = f"the table of {arch} has no {kernel} for width {width}"
            break
        if mode == "auto" and not _is_checked(arch, kernel):
            obstacle = f"{kernel} was not checked on {arch} as it is now (KD_KERNELS=triton uses it)"
            break
        if entry.get("form") == "torch" and mode == "auto":
            return Choice("torch", f"library products were faster for {kernel} at width {width} on {arch}")
        configs[kernel] = {name: value for name, value in entry.items() if name != "form"}
    if obstacle is None:
        return Choice("triton", f"the table of {arch} knows width {width}", configs)
    if mode == "triton":
        raise RuntimeError(
            f"KD_KERNELS=triton, but {obstacle}; make an entry with `python -m kdcache_kernels.tune`, "
            "or set KD_KERNELS=auto"
        )
    if warns:
        _warn_once(obstacle)
    return Choice("torch", obstacle)


def architecture(tensor: Tensor) -> str:
    """What the tables call the device of a tensor: ``sm_90``, ``gfx942``, ``interpreter``, or the device's type."""
    if tensor.is_cuda:
        return _cuda_architecture(tensor.device.index or 0)
    if tensor.device.type == "cpu" and os.environ.get("TRITON_INTERPRET") == "1":
        return INTERPRETER
    return tensor.device.type


def read_table(arch: str) -> dict[str, dict[str, dict[str, Any]]]:
    """The table of one architecture: kernel, width (or ``*`` for any), settings. Empty when there is none."""
    return _read_document(arch).get("kernels", {})


@functools.cache
def _is_checked(arch: str, kernel: str) -> bool:
    return is_checked(_read_document(arch), kernel)


@functools.cache
def _read_document(arch: str) -> dict[str, Any]:
    path = _TABLES / f"{arch}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


@functools.cache
def _cuda_architecture(index: int) -> str:
    if torch.version.hip is not None:
        return torch.cuda.get_device_properties(index).gcnArchName.split(":")[0]
    return "sm_{}{}".format(*torch.cuda.get_device_capability(index))


def _obstacle(tensor: Tensor, arch: str) -> str | None:
    if not _has_triton():
        return "Triton is not installed"
    if not tensor.is_cuda and arch != INTERPRETER:
        return f"tensors on {arch} have no Triton here (TRITON_INTERPRET=1 interprets it on a CPU)"
    return None


@functools.cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


@functools.cache
def _warn_once(obstacle: str) -> None:
    warnings.warn(f"plain torch instead of Triton: {obstacle}", stacklevel=5)
