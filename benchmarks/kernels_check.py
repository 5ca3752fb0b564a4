"""Right on a real device: against float64 on fresh inputs, poisoned outputs, the same bits twice, and the hazard."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from kdcache_kernels import dequantize, proj_cosine, proj_mse, proj_smooth_l1, quantize
from kdcache_kernels.dispatch import architecture, read_table
from kdcache_kernels.reference import feature_loss
from torch import Tensor

from benchmarks.kernels_meter import Meter, guarded
from benchmarks.kernels_projection import kernels

_SIZES = [((3000, 192), 768), ((3, 999, 384), 1024), ((4, 197, 192), 384)]
_TOY_SIZES = [((70, 16), 32)]
_LOSSES: dict[str, Callable[..., Tensor]] = {"mse": proj_mse, "smooth_l1": proj_smooth_l1, "cosine": proj_cosine}
_CAP = 6e-3
_HUNTS = 20


def run(meter: Meter, errors: list[dict[str, str]]) -> list[dict[str, Any]]:
    """Relative errors of ours and of eager autocast for every loss, size and stored format of the meter's share."""
    torch.use_deterministic_algorithms(True, warn_only=True)  # fills fresh outputs with NaN
    rows: list[dict[str, Any]] = []
    sizes = _TOY_SIZES if meter.is_toy else _SIZES
    for number, case in enumerate(product(sizes, _LOSSES, ("bf16", "fp16", "int8", "fp8"))):
        if not meter.takes(number):
            continue
        (shape, depth), kind, stored = case
        name = f"{kind} {stored} {shape}->{depth}"
        row = guarded(name, errors, partial(_row, meter, kind, stored, name, shape, depth))
        if row is not None:
            rows.append(row)
            print(f"{'ok  ' if row['ok'] else 'FAIL'} {name} {row['ours']}", flush=True)
    torch.use_deterministic_algorithms(False)
    return rows


def _row(meter: Meter, kind: str, stored: str, name: str, shape: tuple[int, ...], depth: int) -> dict[str, Any]:
    student = torch.randn(shape, device=meter.device).bfloat16()
    weight, bias = (
        torch.randn(depth, shape[-1], device=meter.device) / shape[-1] ** 0.5,
        torch.randn(depth, device=meter.device),
    )
    teacher = 0.5 * F.linear(student.float(), weight, bias) + 0.5 * torch.randn(*shape[:-1], depth, device=meter.device)
    floats = {"bf16": torch.bfloat16, "fp16": torch.float16}
    values, scale = (teacher.to(floats[stored]), None) if stored in floats else quantize(teacher, codec=stored)[:2]
    decoded = dequantize(values, scale, dtype=torch.float64)

    def gradients(loss: Callable[..., Tensor], *inputs: Tensor) -> list[Tensor]:
        leaves = [each.detach().clone().requires_grad_() for each in inputs]
        value = loss(*leaves)
        (value * 3).backward()
        return [value.detach(), *(each.grad for each in leaves if each.grad is not None)]

    right = gradients(
        lambda *each: feature_loss(kind, F.linear(*each), decoded),
        student.double(),
        weight.bfloat16().double(),
        bias.double(),
    )

    def autocast(*each: Tensor) -> Tensor:
        with torch.autocast(meter.device.type, dtype=torch.bfloat16):
            return feature_loss(kind, F.linear(*each).float(), decoded.float())

    with kernels("triton"):
        first, second = (
            gradients(lambda *each: _LOSSES[kind](*each, values, scale=scale), student, weight, bias) for _ in "ab"
        )
    theirs = gradients(autocast, student, weight, bias)
    found = [float((mine.double() - wanted).norm() / wanted.norm()) for mine, wanted in zip(first, right, strict=True)]
    eager = [float((each.double() - wanted).norm() / wanted.norm()) for each, wanted in zip(theirs, right, strict=True)]
    same = all(torch.equal(one, two) for one, two in zip(first, second, strict=True))
    within = all(mine <= 1.5 * other + 1e-5 and mine < _CAP for mine, other in zip(found, eager, strict=True))
    return {"name": name, "ours": found, "eager": eager, "bitwise_repeat": same, "ok": same and within}


def hunt_hazard(meter: Meter, errors: list[dict[str, str]]) -> dict[str, Any] | None:
    """8-bit student gradients with a pipeline against the same without one: triton#9433 would make them differ.

    The tables hold one stage for converted operands until this has found nothing on the machine in question.
    """
    if meter.is_toy:
        return {"skipped": "the hazard is one of Hopper's pipelines"}

    def hunt() -> dict[str, Any]:
        from kdcache_kernels.device import gram_ds, gram_small
        from kdcache_kernels.device.sizes import timing_problem

        found = {}
        table = read_table(architecture(torch.empty(0, device=meter.device)))
        for width in (192, 384):
            problem = timing_problem(width, 4 * width, meter.device)
            values, scale, *_ = quantize(problem.values)
            problem = replace(problem, values=values, scale=scale)
            small = gram_small.prepare(problem.weight, problem.bias, table["gram_small"][str(width)])
            upstream, settings = torch.ones((), device=meter.device), dict(table["gram_ds"][str(width)])

            def gradient(stages: int) -> Tensor:
                given = {**settings, "num_stages_converted": stages}  # noqa: B023
                return gram_ds.launch(problem, upstream, None, small, problem.weight, given)  # noqa: B023

            alone = gradient(1)
            differing = [int((gradient(stages) != alone).sum()) for stages in (2, 3, 4) for _ in range(_HUNTS)]
            found[str(width)] = {"launches": len(differing), "elements_that_differ": sum(differing)}
        return found

    return guarded("hazard", errors, hunt)
