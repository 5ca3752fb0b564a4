"""Compile a kernel for a GPU that is not there, and say what the assembler made of it.

Needs no GPU, no driver and no CUDA toolkit: the assembler and the disassembler come with Triton. An interpreted kernel
has nothing to compile, so this runs in a process without ``TRITON_INTERPRET``.
"""

import contextlib
import functools
import importlib
import io
import multiprocessing
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import triton
import triton.language as tl
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.cache import get_cache_manager
from triton.runtime.jit import JITFunction

from kdcache_kernels.assembly import Loop, read_amd, read_loops, read_nvidia, refilled_while_read
from kdcache_kernels.device.case import Case
from kdcache_kernels.device.kernel import Kernel

Made = TypeVar("Made")
_KIB = 1024
_LOG = "kdcache_ptxas.log"
_LONGEST_MESSAGE = 400


@dataclass(frozen=True, kw_only=True)
class Target:
    """An architecture to compile for.

    Args:
        gpu: Triton's name of it.
        shared_limit_bytes: What one block may use. A compile succeeds above it; the launch fails.
    """

    gpu: GPUTarget
    shared_limit_bytes: int


TARGETS = {
    "sm_80": Target(gpu=GPUTarget("cuda", 80, 32), shared_limit_bytes=163 * _KIB),
    "sm_86": Target(gpu=GPUTarget("cuda", 86, 32), shared_limit_bytes=99 * _KIB),
    "sm_89": Target(gpu=GPUTarget("cuda", 89, 32), shared_limit_bytes=99 * _KIB),
    "sm_90": Target(gpu=GPUTarget("cuda", 90, 32), shared_limit_bytes=227 * _KIB),
    "sm_100": Target(gpu=GPUTarget("cuda", 100, 32), shared_limit_bytes=227 * _KIB),
    "sm_103": Target(gpu=GPUTarget("cuda", 103, 32), shared_limit_bytes=227 * _KIB),
    "sm_120": Target(gpu=GPUTarget("cuda", 120, 32), shared_limit_bytes=99 * _KIB),
    "gfx942": Target(gpu=GPUTarget("hip", "gfx942", 64), shared_limit_bytes=64 * _KIB),
    "gfx950": Target(gpu=GPUTarget("hip", "gfx950", 64), shared_limit_bytes=160 * _KIB),
}


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What a compiled kernel uses.

    Args:
        registers: Per thread; vector registers on AMD.
        spill_bytes: Spill stores and spill loads together, per thread.
        stack_bytes: Per thread.
        shared_bytes, shared_limit_bytes: Per block, and what the architecture allows.
        matrix_instructions: How often each occurs in the machine code: ``HGMMA``, ``UTCHMMA``, ``HMMA``, ``MFMA``.
        wide_loads: Loads from global memory of 16 bytes or more.
        small_loads: Loads from global memory of one or two bytes.
        serialised: The assembler waits after every wgmma (C7515).
        pipelined_register_operand: A wgmma with an operand in registers runs beside later work. Assemblers before 13.3
            may overwrite that operand too early: wrong sums without a word (triton#9433).
        refilled_while_read: A copy refills a pipelined buffer that a product in flight still reads. Triton up to 3.8
            gives a tile that both a product and other arithmetic read one slot too few (triton#7110): wrong sums.
        ptxas: Version of the assembler, (13, 4); None on AMD.
        loops: Outermost loops of the machine code, in its order; none on AMD.
        other_instructions: Outside of them.
    """

    registers: int
    spill_bytes: int
    stack_bytes: int
    shared_bytes: int
    shared_limit_bytes: int
    matrix_instructions: Mapping[str, int] = field(default_factory=dict)
    wide_loads: int = 0
    small_loads: int = 0
    serialised: bool = False
    pipelined_register_operand: bool = False
    refilled_while_read: bool = False
    ptxas: tuple[int, int] | None = None
    loops: Sequence[Loop] = ()
    other_instructions: int = 0


@dataclass(frozen=True, kw_only=True)
class Report:
    """One case on one target: its resources, or why it did not compile."""

    target: str
    module: str
    name: str
    num_warps: int
    num_stages: int
    has_products: bool
    narrow_loads: str
    seconds: float
    resources: Resources | None
    error: str | None


def require_compiler() -> None:
    """Raises: RuntimeError if Triton was imported to interpret kernels."""
    if not isinstance(tl.zeros, JITFunction) or knobs.runtime.interpret:
        raise RuntimeError(
            "TRITON_INTERPRET is set, and an interpreted kernel cannot be compiled; run this in a process of its own "
            "with TRITON_INTERPRET=0"
        )


def compile_case(case: Case, target: str) -> Resources:
    """Compile one case and read off what it uses; Triton's compile cache makes a repeat cheap.

    Raises: RuntimeError where kernels are interpreted; whatever Triton raises for a kernel it cannot compile.
    """
    require_compiler()
    compiled, log = _compile(_source(case), target, {"num_warps": case.num_warps, "num_stages": case.num_stages})
    shared = {"shared_bytes": compiled.metadata.shared, "shared_limit_bytes": TARGETS[target].shared_limit_bytes}
    if "cubin" in compiled.asm:
        code = disassemble(compiled.asm["cubin"], target)
        found = read_nvidia(compiled.asm["ptx"], log, code)
        refilled = refilled_while_read(compiled.asm["ttgir"], case.num_stages)
        loops, others = read_loops(code)
        return Resources(
            **shared,
            **found,
            refilled_while_read=refilled,
            ptxas=ptxas_version(target),
            loops=loops,
            other_instructions=others,
        )
    return Resources(**shared, **read_amd(compiled.asm["amdgcn"]))


def kernel_of(module: str) -> Kernel:
    """The ``KERNEL`` of a module.

    Raises: ValueError if it has none.
    """
    found = vars(importlib.import_module(module)).get("KERNEL")
    if not isinstance(found, Kernel):
        raise ValueError(f"{module} has no KERNEL, a kdcache_kernels.device.kernel.Kernel; found {found!r}")
    return found


def report_case(module: str, number: int, target: str) -> Report:
    """Compile the case that comes at a position of a kernel's ``cases()``; made to be called in another process."""
    case = list(kernel_of(module).cases())[number]
    return report(case, module, target)


def on_all_cores(work: Callable[..., Made], jobs: Sequence[tuple[Any, ...]]) -> Iterator[Made]:
    """What a function makes of each job's arguments, in order, on as many processes as there are cores."""
    workers = min(len(os.sched_getaffinity(0)), len(jobs))
    if workers == 1:
        yield from (work(*job) for job in jobs)
        return
    context = multiprocessing.get_context("forkserver")
    # Torch and Triton take seconds to import: once for all workers.
    context.set_forkserver_preload(["kdcache_kernels.aot"])
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        for future in [pool.submit(work, *job) for job in jobs]:
            yield future.result()


def report(case: Case, module: str, target: str) -> Report:
    """Compile one case; a failure becomes part of the report."""
    start = time.perf_counter()
    resources, error = None, None
    try:
        resources = compile_case(case, target)
    except Exception as failure:
        # Triton has no common base class for what a kernel may do wrong, and one failure must not hide the others.
        error = f"{type(failure).__name__}: {' '.join(str(failure).split())[-_LONGEST_MESSAGE:]}"
    return Report(
        target=target,
        module=module,
        name=case.name,
        num_warps=case.num_warps,
        num_stages=case.num_stages,
        has_products=case.has_products,
        narrow_loads=case.narrow_loads,
        seconds=time.perf_counter() - start,
        resources=resources,
        error=error,
    )


def exposed_to_hazard(resources: Resources) -> bool:
    """Whether a register operand may be overwritten while an asynchronous product still reads it."""
    return resources.pipelined_register_operand and (resources.ptxas is None or resources.ptxas < (13, 3))


def _source(case: Case) -> Any:
    """What the just-in-time compiler would see, hints included: without them no load is vectorised."""
    signature: dict[str, str] = {}
    constants: dict[tuple[int], Any] = {}
    hints: dict[tuple[int], list[list[Any]]] = {}
    for position, name in enumerate(case.kernel.arg_names):
        if name in case.constants:
            signature[name] = "constexpr"
            constants[(position,)] = case.constants[name]
            continue
        if name not in case.types:
            raise ValueError(f"{case.name}: argument {name!r} has neither a type nor a constant")
        signature[name] = case.types[name]
        if signature[name].startswith("*") or (signature[name] in ("i32", "i64") and name not in case.ragged):
            hints[(position,)] = [["tt.divisibility", 16]]
    return ASTSource(fn=case.kernel, signature=signature, constexprs=constants, attrs=hints)


def _compile(source: Any, target: str, options: Mapping[str, int]) -> tuple[Any, str]:
    """The compiled kernel and the log of the assembler run that made it, kept beside it in Triton's cache."""
    # What a launch would take; asked for by name because Triton 3.9 warns where nobody chose.
    chosen = {**options, "enable_fp_fusion": knobs.language.default_fp_fusion}
    for always in (False, True):
        output = io.StringIO()
        with knobs.nvidia.scope(), knobs.compilation.scope(), contextlib.redirect_stdout(output):
            knobs.nvidia.dump_ptxas_log = True
            knobs.compilation.always_compile = always
            compiled = triton.compile(source, target=TARGETS[target].gpu, options=chosen)
        if "cubin" not in compiled.asm:
            return compiled, ""
        cache = get_cache_manager(compiled.hash)
        if "Used" in output.getvalue():
            cache.put(output.getvalue(), _LOG, binary=False)
        kept = cache.get_file(_LOG)
        if kept is not None:
            return compiled, Path(kept).read_text(encoding="utf-8")
        # Something else compiled this kernel before and threw the log away.
    raise RuntimeError(f"Triton {triton.__version__} printed no assembler log for {target}")


def disassemble(cubin: bytes, target: str) -> str:
    """The machine code of a compiled kernel, as nvdisasm prints it.

    Raises: RuntimeError where the nvdisasm that Triton brings is older than the target.
    """
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        tool = knobs.nvidia.nvdisasm
        finished = subprocess.run([tool.path, "-c", file.name], capture_output=True, text=True)
    if finished.returncode:
        said = " ".join(finished.stderr.replace(file.name, "the code").split())
        raise RuntimeError(
            f"nvdisasm {tool.version} ({tool.path}) does not read code of {target}: {said}; name a newer one in "
            "TRITON_NVDISASM_PATH"
        )
    return finished.stdout


@functools.cache
def ptxas_version(target: str) -> tuple[int, int] | None:
    """The assembler that Triton would use for a target, (13, 4); None where it needs none."""
    gpu = TARGETS[target].gpu
    if gpu.backend != "cuda":
        return None
    from triton.backends.nvidia.compiler import get_ptxas_version

    assert isinstance(gpu.arch, int)
    return read_ptxas_version(get_ptxas_version(gpu.arch))


def read_ptxas_version(text: str) -> tuple[int, int]:
    """(13, 4) from what ``ptxas --version`` prints.

    Raises: ValueError if no release is named.
    """
    match = re.search(r"release (\d+)\.(\d+)", text)
    if match is None:
        raise ValueError(f"no release in what ptxas --version printed: {text!r}")
    return int(match[1]), int(match[2])
