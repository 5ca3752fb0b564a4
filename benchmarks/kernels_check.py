"""Right on a real device: against float64 on fresh inputs, poisoned outputs, the same bits twice, and the hazard.

Every kernel of a table is in it, for what passes here is what `tune --checked-on` vouches for.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any, get_args

import torch
import torch.nn.functional as F
from kdcache_kernels import (
    dequantize,
    proj_cosine,
    proj_mse,
    proj_smooth_l1,
    quantize,
    reference_spectral,
    second_moment,
    spectral_align,
    token_spectrum,
)
from kdcache_kernels.dispatch import architecture, read_table
from kdcache_kernels.quantized import Format
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
    others = _TOY_OTHERS if meter.is_toy else _OTHERS
    for number, (name, check, shape) in enumerate(others, start=1):
        if meter.takes(number):
            row = guarded(name, errors, partial(_checked, f"{name} {shape}", check, shape, meter.device))
            if row is not None:
                rows.append(row)
                print(f"{'ok  ' if row['ok'] else 'FAIL'} {row['name']} {row['ours']}", flush=True)
    torch.use_deterministic_algorithms(False)
    return rows


def _checked(
    name: str,
    check: Callable[[Tensor], tuple[list[Tensor], list[float], bool]],
    shape: tuple[int, ...],
    device: torch.device,
) -> dict[str, Any]:
    x = torch.randn(shape, device=device).bfloat16()
    with kernels("triton"):
        first, errors, is_right = check(x)
        second, *_ = check(x)
    same = all(torch.equal(one, two) for one, two in zip(first, second, strict=True))
    return {"name": name, "ours": errors, "bitwise_repeat": same, "ok": same and is_right}


def _quantized(x: Tensor, *, codec: Format) -> tuple[list[Tensor], list[float], bool]:
    found = quantize(x, codec=codec)
    with kernels("torch"):
        wanted = quantize(x.cpu(), codec=codec)
    values, scale, *sums = (each.cpu() for each in found)
    differing = (values.view(torch.uint8) != wanted[0].view(torch.uint8)).sum() + (scale != wanted[1]).sum()
    far = [float((mine - other).abs().max() / other.abs().max()) for mine, other in zip(sums, wanted[2:], strict=True)]
    return [found[0].view(torch.uint8), *found[1:]], [float(differing), *far], not differing and max(far) < 1e-5


def _spectrum(x: Tensor) -> tuple[list[Tensor], list[float], bool]:
    energy, bandwidth = token_spectrum(x, levels=(0.5, 0.9))
    each = reference_spectral.token_energies(x.double())
    off = float(((energy.double() - each.mean(0)).abs() / each.mean(0)).max())
    moved = float((bandwidth - reference_spectral.token_bandwidth(each, (0.5, 0.9))).abs().double().mean())
    return [energy, bandwidth], [off, moved], off < 5e-4 and moved < 0.05


def _aligned(x: Tensor) -> tuple[list[Tensor], list[float], bool]:
    student, teacher = (each.contiguous() for each in x.chunk(2))
    found, exact = student.clone().requires_grad_(), student.double().requires_grad_()
    loss = spectral_align(found, teacher)
    wanted = reference_spectral.spectral_align(exact, teacher.double())
    # Gradients of a mean over millions are below what bfloat16 has digits for.
    (loss * 1e6).backward()
    (wanted * 1e6).backward()
    assert found.grad is not None and exact.grad is not None
    off = [
        float((loss - wanted).detach().abs() / wanted.detach()),
        float((found.grad - exact.grad).norm() / exact.grad.norm()),
    ]
    return [loss.detach(), found.grad], off, off[0] < 1e-5 and off[1] < _CAP


def _second_moment(x: Tensor) -> tuple[list[Tensor], list[float], bool]:
    found, wanted = second_moment(x), reference_spectral.second_moment(x.double())
    off = float((found - wanted).norm() / wanted.norm())
    # Hopper's tensor cores truncate their sums: 1e-5 over 4,096 tokens on an H100.
    return [found], [off], off < 2e-5


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


_Check = Callable[[Tensor], tuple[list[Tensor], list[float], bool]]
_OTHERS: list[tuple[str, _Check, tuple[int, ...]]] = [
    *((f"quantize {codec}", partial(_quantized, codec=codec), (5000, width))
      for codec in get_args(Format) for width in (192, 768, 1024)),
    *(("token_spectrum", _spectrum, (3000, width)) for width in (192, 384, 768, 1000, 1022, 1024)),
    *(("spectral_align", _aligned, (64, width, 14, 14)) for width in (192, 384)),
    *(("second_moment", _second_moment, shape) for shape in ((30_000, 192), (9, 997, 384), (9000, 768))),
]  # fmt: skip
_TOY_OTHERS: list[tuple[str, _Check, tuple[int, ...]]] = [
    ("quantize int8", partial(_quantized, codec="int8"), (20, 48)),
    ("quantize fp8", partial(_quantized, codec="fp8"), (20, 48)),
    ("token_spectrum", _spectrum, (20, 64)),
    ("spectral_align", _aligned, (4, 8, 4, 4)),
    ("second_moment", _second_moment, (20, 16)),
]
