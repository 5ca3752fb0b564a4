"""The plain torch form of every operation on a CPU, in turns with eager torch: CPU time and memory.

Of losses one forward and backward each. CPU time of one thread, because a shared machine's clock also measures the
others. Lift's rows are its loss and pooled features, fused and written out.
"""

import argparse
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from kdcache_kernels import (
    dequantize,
    lift_mse,
    proj_cosine,
    proj_mse,
    proj_smooth_l1,
    quantize,
    reference,
    reference_spectral,
    second_moment,
    spectral_align,
    token_spectrum,
)
from torch import Tensor

from benchmarks.record import environment, spread, write
from kdcache.reports.tables import text_table

LOSSES: dict[str, Callable[..., Tensor]] = {
    "mse": proj_mse,
    "smooth_l1": proj_smooth_l1,
    "cosine": proj_cosine,
}
WIDTHS = [(192, 384), (192, 768)]
TYPES = [("fp32", "fp16"), ("fp32", "int8"), ("bf16", "fp16"), ("bf16", "int8")]
_STUDENTS = {"fp32": torch.float32, "bf16": torch.bfloat16}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument("--tokens", type=int, default=256 * 196, help="N (50176)")
    parser.add_argument("--repeats", type=int, default=20, help="of each side, in turns (20)")
    parser.add_argument("--only", default="", help="rows whose name contains this")
    parser.add_argument("--out", type=Path, help="JSON file; a table of the same name ends in .md")


def run(arguments: argparse.Namespace) -> int:
    """Measure."""
    torch.set_num_threads(1)
    os.environ["KD_KERNELS"] = "torch"
    rows: list[dict[str, Any]] = []
    result = {"benchmark": "kernels_plain", **environment(torch.device("cpu")), "tokens": arguments.tokens}
    for problems in [*(partial(_problems, widths) for widths in WIDTHS), _measures]:
        for name, sides in problems(arguments.tokens, arguments.only):
            row = {"name": name, **_measure(sides, arguments.repeats)}
            rows.append(row)
            print(f"{name:32s} {row['of_eager']:.2f} of eager's time", flush=True)
            if arguments.out is not None:
                write(arguments.out, {**result, "rows": rows})
                arguments.out.with_suffix(".md").write_text(_page(result, rows))
    return 0


def _problems(widths: tuple[int, int], num_tokens: int, only: str) -> Any:
    """Names with both sides of a comparison: functions of nothing that do a forward and backward."""
    width, depth = widths
    generator = torch.Generator().manual_seed(0)

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=generator)

    weight, bias, gain = normal(depth, width) / width**0.5, 0.1 * normal(depth), 1 + 0.1 * normal(depth)
    tokens = normal(num_tokens, width)
    teacher = 0.5 * F.linear(tokens, weight, bias) + 0.5 * normal(num_tokens, depth)
    values, scale, *_ = quantize(teacher)
    packed: dict[str, tuple[Tensor, Tensor | None]] = {"fp16": (teacher.half(), None), "int8": (values, scale)}
    for kind in LOSSES:
        for student, stored in TYPES:
            name = f"{kind} {width}->{depth} {student} {stored}"
            leaves = [each.clone().requires_grad_() for each in (tokens.to(_STUDENTS[student]), weight, bias)]
            if only in name:
                yield name, [_step(make(kind, leaves, *packed[stored]), leaves) for make in (_ours, _eager)]
    leaves = [each.clone().requires_grad_() for each in (tokens, weight, gain, bias)]
    name = f"lift {width}->{depth} fp32 fp16"
    if only in name:
        yield name, [_step(make(leaves, packed["fp16"][0]), leaves) for make in (_lift, _lift_eager)]


def _measures(num_tokens: int, only: str) -> Any:
    """The same of the operations on tokens alone, 384 channels on a grid of 14 x 14."""
    grid, width = 14, 384
    images = max(1, num_tokens // grid**2)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(images * grid**2, width, generator=generator)
    maps = tokens.view(images, grid, grid, width).permute(0, 3, 1, 2)
    student = torch.randn(images, grid, grid, 192, generator=generator).permute(0, 3, 1, 2).requires_grad_()
    sides: dict[str, list[Callable[[], Any]]] = {
        "token_spectrum 384": [lambda: token_spectrum(tokens), lambda: reference_spectral.token_spectrum(tokens)],
        "second_moment 384": [lambda: second_moment(tokens), lambda: tokens.t() @ tokens / len(tokens)],
        "quantize 384 int8": [lambda: quantize(tokens), lambda: reference.quantize(tokens)],
        "spectral_align 192->384": [
            _step(partial(align, student, maps), [student])
            for align in (spectral_align, reference_spectral.spectral_align)
        ],
    }
    yield from ((name, both) for name, both in sides.items() if only in name)


def _ours(kind: str, leaves: list[Tensor], values: Tensor, scale: Tensor | None) -> Callable[[], Tensor]:
    return lambda: LOSSES[kind](*leaves, values, scale=scale)


def _eager(kind: str, leaves: list[Tensor], values: Tensor, scale: Tensor | None) -> Callable[[], Tensor]:
    """What a training script writes: autocast's linear layer for a 16-bit student, the loss in float32."""
    is_narrow = leaves[0].dtype != torch.float32

    def loss() -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=is_narrow):
            projected = F.linear(leaves[0], leaves[1], leaves[2])
        projected, targets = projected.float(), dequantize(values, scale)
        if kind == "cosine":
            return (1 - F.cosine_similarity(projected, targets, dim=-1)).mean()
        return {"mse": F.mse_loss, "smooth_l1": F.smooth_l1_loss}[kind](projected, targets)

    return loss


def _lift(leaves: list[Tensor], values: Tensor) -> Callable[[], Tensor]:
    def loss() -> Tensor:
        error, pooled = lift_mse(*leaves, values)
        return error + pooled.square().mean()

    return loss


def _lift_eager(leaves: list[Tensor], values: Tensor) -> Callable[[], Tensor]:
    def loss() -> Tensor:
        tokens, weight, gain, bias = leaves
        lifted = F.layer_norm(F.linear(tokens, weight), gain.shape, gain, bias)
        return F.mse_loss(lifted, values.float()) + lifted.mean(-2).square().mean()

    return loss


def _step(loss: Callable[[], Tensor], leaves: list[Tensor]) -> Callable[[], None]:
    def step() -> None:
        for each in leaves:
            each.grad = None
        loss().backward()

    return step


def _measure(sides: list[Callable[[], None]], repeats: int) -> dict[str, Any]:
    """CPU times of ours and eager torch in turns, and the most memory of each beyond what was there."""
    found: dict[str, Any] = {}
    for name, step in zip(("ours", "eager"), sides, strict=True):
        step()
        found[f"{name}_peak_mb"] = _peak_mb(step)
    times: list[list[float]] = [[], []]
    for _ in range(repeats):
        for step, taken in zip(sides, times, strict=True):
            started = time.process_time()
            step()
            taken.append((time.process_time() - started) * 1e3)
    found["ours_cpu_ms"], found["eager_cpu_ms"] = spread(times[0]), spread(times[1])
    found["of_eager"] = found["ours_cpu_ms"]["median"] / found["eager_cpu_ms"]["median"]
    return found


def _peak_mb(step: Callable[[], None]) -> float:
    # 5 sets the high-water mark back to what is in use: proc(5), clear_refs. The step drops the gradients
    # of the step before, so what it leaves behind was there.
    Path("/proc/self/clear_refs").write_text("5")
    before = _status_mb("VmRSS")
    step()
    return _status_mb("VmHWM") - before


def _status_mb(field: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise RuntimeError(f"/proc/self/status has no {field}; this benchmark needs Linux")


def _page(result: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    cells = [
        [
            row["name"],
            *(f"{row[f'{side}_cpu_ms']['median']:.1f}" for side in ("ours", "eager")),
            f"{row['of_eager']:.2f}",
            *(f"{row[f'{side}_peak_mb']:.0f}" for side in ("ours", "eager")),
        ]
        for row in rows
    ]
    head = ["what", "ours, CPU ms", "eager, CPU ms", "of eager", "ours, MB", "eager, MB"]
    torch_version = result["versions"]["torch"]
    about = f"{result['tokens']:,} tokens, one thread, {result['device']}, torch {torch_version}, {result['date']}"
    return f"# Plain torch beside eager torch\n\n{about}\n\n```\n{text_table(head, cells)}\n```\n"
