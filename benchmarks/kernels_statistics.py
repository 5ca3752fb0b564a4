"""Spectra, second moments, quantisation and SpectralKD's loss beside their eager and compiled twins."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from kdcache_kernels import quantize, reference, second_moment, spectral_align, token_spectrum
from torch import Tensor

from benchmarks.kernels_meter import Meter, guarded
from benchmarks.kernels_projection import kernels

_WIDTHS = (768, 192, 384, 1024)
_LEVELS = (0.9, 0.95, 0.99)


def eager_spectrum(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Mean energy and bandwidths through torch's FFT."""
    half = torch.view_as_real(torch.fft.rfft(tokens.float(), dim=-1)).square().sum(-1)
    energy = torch.cat((half, half[..., 1 : (tokens.shape[-1] + 1) // 2].flip(-1)), -1)
    energy = energy / energy.sum(-1, keepdim=True)
    curve = energy.cumsum(-1)
    return energy.mean(0), torch.stack([(curve < level).sum(-1) + 1 for level in _LEVELS], -1)


def eager_align(student: Tensor, teacher: Tensor) -> Tensor:
    """SpectralKD's loss through its two FFTs."""
    spectra = (torch.fft.rfft2(each.float(), norm="ortho") for each in (student, teacher))
    return F.mse_loss(*(torch.view_as_real(each) for each in spectra))


def run(meter: Meter, rates: dict[str, float], errors: list[dict[str, str]]) -> list[dict[str, Any]]:
    """Every operation at every width, with each way to compute it."""
    rows: list[dict[str, Any]] = []
    compiled_spectrum, compiled_quantize = meter.compiled(eager_spectrum), meter.compiled(reference.quantize)
    tokens = 40 if meter.is_toy else 256 * 196
    for width in (16,) if meter.is_toy else _WIDTHS:
        x = torch.randn(tokens, width, device=meter.device).bfloat16()
        sizes = {
            "token_spectrum": 2 * x.numel(),
            "quantize int8": 3 * x.numel(),
            "second_moment": 2 * x.numel(),
        }
        found: dict[str, dict[str, tuple[str, Callable[[], object]]]] = {
            "token_spectrum": {
                "kdcache, Triton": ("triton", partial(token_spectrum, x, levels=_LEVELS)),
                "kdcache, torch": ("torch", partial(token_spectrum, x, levels=_LEVELS)),
                "torch.compile": ("auto", partial(compiled_spectrum, x)),
                "eager": ("auto", partial(eager_spectrum, x)),
            },
            "quantize int8": {
                "kdcache, Triton": ("triton", partial(quantize, x)),
                "torch.compile": ("auto", partial(compiled_quantize, x)),
                "eager": ("auto", partial(reference.quantize, x)),
            },
            "second_moment": {
                "kdcache": ("auto", partial(second_moment, x)),
                "eager float32": ("auto", lambda x=x: x.float().t() @ x.float()),
            },
        }
        for operation, variants in found.items():
            floor_ms = sizes[operation] / rates["copy_gb_s"] / 1e6
            rows += _measured(f"{operation} {width}", variants, floor_ms, meter, errors)
    rows += _alignment(meter, rates, errors)
    return rows


def _alignment(meter: Meter, rates: dict[str, float], errors: list[dict[str, str]]) -> list[dict[str, Any]]:
    size = (2, 8, 4, 4) if meter.is_toy else (256, 192, 14, 14)
    student = torch.randn(size, device=meter.device).bfloat16().requires_grad_()
    teacher = torch.randn(size, device=meter.device).bfloat16()

    def step(loss: Callable[[Tensor, Tensor], Tensor]) -> Callable[[], None]:
        def run() -> None:
            student.grad = None
            loss(student, teacher).backward()

        return run

    variants: dict[str, tuple[str, Callable[[], object]]] = {
        "kdcache, Triton": ("triton", step(spectral_align)),
        "kdcache, torch": ("torch", step(spectral_align)),
        "torch.compile": ("auto", step(meter.compiled(eager_align))),
        "eager": ("auto", step(eager_align)),
    }
    floor_ms = 6 * student.numel() / rates["copy_gb_s"] / 1e6
    return _measured("spectral_align " + "x".join(map(str, size)), variants, floor_ms, meter, errors)


def _measured(
    label: str,
    variants: dict[str, tuple[str, Callable[[], object]]],
    floor_ms: float,
    meter: Meter,
    errors: list[dict[str, str]],
) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for name, (mode, run) in variants.items():
        if not meter.wants(name):
            continue
        if not meter.has_time():
            break

        def measure(mode: str = mode, run: Callable[[], object] = run) -> dict[str, Any]:
            with kernels(mode):
                return meter.measure(run)

        row = guarded(f"{label} {name}", errors, measure)
        if row is not None:
            row |= {"shape": label, "variant": name, "floors": {"bytes_ms": floor_ms}}
            over = row["ms"]["median"] / floor_ms
            print(f"{label:28s} {name:20s} {row['ms']['median'] * 1e3:9.1f} us, {over:6.2f} x bytes", flush=True)
            rows.append(row)
    return rows
