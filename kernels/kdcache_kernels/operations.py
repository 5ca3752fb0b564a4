"""Operations whose times are predicted, at the sizes of a batch of 256 images with 196 tokens each."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from kdcache_kernels.device import projection
from kdcache_kernels.dispatch import Config, read_table
from kdcache_kernels.launches import Recording, recorded
from kdcache_kernels.projection import KERNELS
from kdcache_kernels.projection_problem import Problem
from kdcache_kernels.token_spectrum import triton_form

_IMAGES, _TOKENS = 256, 196
_STORED = {"bf16": torch.bfloat16, "fp16": torch.float16, "int8": torch.int8}
# Where a GPU has no table its kernels are compiled with the settings of this one.
_DEFAULT_TABLE = "sm_90"


@dataclass(frozen=True)
class Operation:
    """A forward and backward pass on tensors without data.

    Args:
        name: For reports and ``--filter``.
        kernels: That need settings.
        width: The row of the tables.
        run: Launches everything, with the settings by kernel.
    """

    name: str
    kernels: tuple[str, ...]
    width: int
    run: Callable[[dict[str, Config]], object]

    def record(self, multiprocessors: int, arch: str) -> Recording:
        """What it launches on a GPU of so many multiprocessors, with the settings of its table.

        Raises: LookupError if no table has a row for a kernel.
        """
        configs = {kernel: self._config(kernel, arch) for kernel in self.kernels}
        # Once before, so that what is made once and kept for all calls is not counted.
        with recorded(multiprocessors):
            self.run(configs)
        with recorded(multiprocessors) as recording:
            self.run(configs)
        return recording

    def _config(self, kernel: str, arch: str) -> Config:
        for table in (read_table(arch), read_table(_DEFAULT_TABLE)):
            rows = table.get(kernel, {})
            if found := rows.get(str(self.width)) or rows.get("*"):
                return {name: value for name, value in found.items() if name != "form"}
        raise LookupError(f"no table has {kernel} for width {self.width}, which {self.name} needs")


def _projection(kind: str, width: int, depth: int, stored: str) -> Operation:
    student = torch.empty(_IMAGES, _TOKENS, width, dtype=torch.bfloat16, device="meta")
    values = torch.empty(_IMAGES * _TOKENS, depth, dtype=_STORED[stored], device="meta")
    scale = torch.empty(_IMAGES * _TOKENS, device="meta") if stored == "int8" else None
    weight, bias = torch.empty(depth, width, device="meta"), torch.empty(depth, device="meta")
    problem = Problem(student, weight, bias, values, scale, None, None, None)
    upstream = torch.empty((), device="meta")
    algorithm, run = {
        "mse": ("gram", _run_gram),
        "smooth_l1": ("direct", _run_direct),
        "cosine": ("cosine", _run_cosine),
    }[kind]
    return Operation(
        f"{kind} {width}->{depth} {stored}",
        KERNELS[algorithm],
        width,
        lambda configs: run(problem, upstream, configs),
    )


def _run_gram(problem: Problem, upstream: Tensor, configs: dict[str, Config]) -> object:
    none = torch.empty(2, 0, device=upstream.device)
    return projection.gram(problem, configs), projection.gram_student_gradient(upstream, problem, none, configs)


def _run_direct(problem: Problem, upstream: Tensor, configs: dict[str, Config]) -> object:
    forward = projection.direct(problem, "smooth_l1", 1.0, configs)
    return forward, projection.direct_student_gradient(upstream, problem, "smooth_l1", 1.0, configs)


def _run_cosine(problem: Problem, upstream: Tensor, configs: dict[str, Config]) -> object:
    *forward, factors = projection.cosine(problem, configs)
    return forward, projection.gram_student_gradient(upstream, problem, factors, configs)


def _spectrum(width: int) -> Operation:
    tokens = torch.empty(_IMAGES, _TOKENS, width, dtype=torch.bfloat16, device="meta")
    kernel = "spectrum_fold4"
    return Operation(
        f"token_spectrum {width}",
        (kernel,),
        width,
        lambda configs: triton_form(tokens, [0.9], False, kernel, configs[kernel]),
    )


OPERATIONS = (
    *(_projection("mse", 192, 768, stored) for stored in ("bf16", "fp16", "int8")),
    *(_projection("mse", 192, 384, stored) for stored in ("fp16", "int8")),
    *(_projection("mse", 384, 1024, stored) for stored in ("bf16", "int8")),
    _projection("smooth_l1", 192, 768, "bf16"),
    _projection("cosine", 192, 768, "bf16"),
    *(_spectrum(width) for width in (192, 384, 768, 1024)),
)
