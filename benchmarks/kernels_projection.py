"""Projected feature losses, forward and backward, beside everything a user could run instead."""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from kdcache_kernels import FeatureLoss, dequantize, explain_backend, proj_cosine, proj_mse, proj_smooth_l1, quantize
from kdcache_kernels.reference import feature_loss
from torch import Tensor

from benchmarks.kernels_meter import Meter, guarded

SHAPES = [
    (192, 768, "bf16", "mse"),
    (192, 768, "bf16", "smooth_l1"),
    (192, 768, "bf16", "cosine"),
    (192, 768, "fp16", "mse"),
    (192, 768, "int8", "mse"),
    (192, 768, "pca64", "mse"),
    (192, 1024, "bf16", "mse"),
    (192, 384, "bf16", "mse"),
    (384, 1024, "bf16", "mse"),
    (384, 1024, "int8", "mse"),
]
_TOY_SHAPES = [
    *((16, 32, stored, "mse") for stored in ("bf16", "fp16", "int8", "pca64")),
    *((16, 32, "bf16", kind) for kind in ("smooth_l1", "cosine")),
]
_STUDENT_STEP = ("deit_tiny_patch16_224", 256)


@dataclass(frozen=True)
class Case:
    """One problem: leaves that take gradients, and targets as stored."""

    label: str
    kind: str
    student: Tensor
    weight: Tensor
    bias: Tensor
    values: Tensor
    scale: Tensor | None
    basis: Tensor | None

    def decoded(self) -> Tensor:
        """Float32 targets."""
        values = dequantize(self.values, self.scale)
        return values if self.basis is None else values @ self.basis


def make_case(width: int, depth: int, stored: str, kind: str, device: torch.device, tokens: int) -> Case:
    """Random tokens and a teacher that a projection of them half explains."""
    generator = torch.Generator(device).manual_seed(0)

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, device=device)

    student, weight, bias = normal(tokens, width).bfloat16(), normal(depth, width) / width**0.5, 0.1 * normal(depth)
    teacher = 0.5 * F.linear(student.float(), weight, bias) + 0.5 * normal(tokens, depth)
    values, scale, basis = teacher.bfloat16(), None, None
    if stored == "fp16":
        # A cache's default, which kernels for a bfloat16 student convert.
        values = teacher.half()
    elif stored == "int8":
        values, scale, *_ = quantize(teacher)
    elif stored.startswith("pca"):
        rank = min(int(stored.removeprefix("pca")), depth // 2)
        basis = torch.linalg.qr(normal(depth, rank))[0].t().contiguous()
        values = (teacher @ basis.t()).bfloat16()
    leaves = [each.requires_grad_() for each in (student, weight, bias)]
    label = f"{width}->{depth} {stored}" + ("" if kind == "mse" else f" {kind}")
    return Case(label, kind, leaves[0], leaves[1], leaves[2], values, scale, basis)


def eager_autocast(case: Case) -> Tensor:
    """What a training script writes: autocast's linear layer, then the loss, which autocast computes in float32."""
    with torch.autocast(case.student.device.type, dtype=torch.bfloat16):
        return feature_loss(case.kind, F.linear(case.student, case.weight, case.bias).float(), case.decoded())


def eager_bfloat16(case: Case) -> Tensor:
    """The same with the residual kept in bfloat16, as somebody short of memory writes it."""
    projected = F.linear(case.student, case.weight.bfloat16(), case.bias.bfloat16())
    targets = case.values if case.scale is None else case.values.bfloat16() * case.scale.bfloat16().unsqueeze(-1)
    targets = targets if case.basis is None else targets @ case.basis.bfloat16()
    if case.kind == "mse":
        return (projected - targets).square().mean(dtype=torch.float32)
    return feature_loss(case.kind, projected, targets).float()


def ours(case: Case) -> Tensor:
    """The fused loss."""
    inputs = case.student, case.weight, case.bias, case.values
    if case.kind == "mse":
        return proj_mse(*inputs, scale=case.scale, basis=case.basis)
    return {"smooth_l1": proj_smooth_l1, "cosine": proj_cosine}[case.kind](*inputs, scale=case.scale)


def kernels(mode: str) -> AbstractContextManager[object]:
    """KD_KERNELS for a while."""
    return patch.dict(os.environ, KD_KERNELS=mode)


def step(loss: Callable[[Case], Tensor], case: Case) -> Callable[[], None]:
    """Forward and backward of one loss, gradients dropped before."""

    def run() -> None:
        case.student.grad = case.weight.grad = case.bias.grad = None
        loss(case).backward()

    return run


def floors(case: Case, rates: dict[str, float]) -> dict[str, float]:
    """Milliseconds of the Gram form's two sweeps if each ran at the slower of memory and products."""
    tokens, width = case.student.shape
    depth = case.values.shape[1]
    sweep = tokens * (2 * width + case.values.element_size() * depth)
    products = 2 * tokens * width * (depth + width), 2 * tokens * width * (depth + 2 * width)
    bytes_moved = sweep, sweep + 2 * tokens * width
    times = [
        max(moved / rates["copy_gb_s"] / 1e6, flop / rates["bf16_tflop_s"] / 1e9)
        for moved, flop in zip(bytes_moved, products, strict=True)
    ]
    return {"gram_two_sweeps_ms": sum(times)}


def run(meter: Meter, rates: dict[str, float], errors: list[dict[str, str]]) -> list[dict[str, Any]]:
    """Every shape with every variant."""
    rows: list[dict[str, Any]] = []
    tokens = 80 if meter.is_toy else 256 * 196
    for width, depth, stored, kind in _TOY_SHAPES if meter.is_toy else SHAPES:
        case = make_case(width, depth, stored, kind, meter.device, tokens)
        floor = floors(case, rates)
        rows += [row for row in _variants(case, meter, floor, errors) if row is not None]
    return rows


def _variants(
    case: Case, meter: Meter, floor: dict[str, float], errors: list[dict[str, str]]
) -> Iterator[dict[str, Any] | None]:
    compiled, compiled_bfloat16 = meter.compiled(eager_autocast), meter.compiled(eager_bfloat16)
    variants: dict[str, tuple[str, Callable[[Case], Tensor]]] = {
        "kdcache, Triton": ("triton", ours),
        "kdcache, library products": ("torch", ours),
        "torch.compile": ("auto", compiled),
        "torch.compile, bfloat16": ("auto", compiled_bfloat16),
        "eager autocast": ("auto", eager_autocast),
        "eager bfloat16": ("auto", eager_bfloat16),
    }
    for name, (mode, loss) in variants.items():
        if not meter.wants(name):
            continue
        if not meter.has_time():
            return
        torch._dynamo.reset()

        def measure(mode: str = mode, loss: Callable[[Case], Tensor] = loss, name: str = name) -> dict[str, Any]:
            with kernels(mode):
                found = meter.measure(step(loss, case))
                kind: Any = case.kind
                form = explain_backend(case.student, case.weight, case.values, loss=kind, basis=case.basis)
            found |= {"shape": case.label, "variant": name, "floors": floor}
            return {**found, "form": form} if loss is ours else found

        row = guarded(f"{case.label} {name}", errors, measure)
        if row is not None:
            over = row["ms"]["median"] / floor["gram_two_sweeps_ms"]
            print(f"{case.label:16s} {name:28s} {row['ms']['median'] * 1e3:9.1f} us, {over:5.2f} x floor", flush=True)
        yield row


def step_share(meter: Meter, errors: list[dict[str, str]]) -> dict[str, Any] | None:
    """What the loss is of a real training step: one of a DeiT-Tiny at batch 256 under autocast, with and without it."""
    import timm

    def measure() -> dict[str, Any]:
        name, batch = ("vit_tiny_patch16_224", 2) if meter.is_toy else _STUDENT_STEP
        small = {"img_size": 32, "depth": 1, "embed_dim": 24, "num_heads": 3} if meter.is_toy else {}
        model = timm.create_model(name, num_classes=10, **small).to(meter.device)
        side = 32 if meter.is_toy else 224
        images = torch.randn(batch, 3, side, side, device=meter.device)
        width = model.embed_dim
        features_loss = FeatureLoss(width, 4 * width).to(meter.device)
        tokens = (side // 16) ** 2
        targets = torch.randn(batch, tokens, 4 * width, device=meter.device).bfloat16()

        def train(with_features: bool) -> Callable[[], None]:
            def run() -> None:
                with torch.autocast(meter.device.type, dtype=torch.bfloat16):
                    features = model.forward_features(images)
                    loss = model.forward_head(features).float().square().mean()
                    if with_features:
                        loss = loss + features_loss(features[:, 1:], targets)
                model.zero_grad()
                features_loss.zero_grad()
                loss.backward()

            return run

        return {"student": name, "batch": batch, **{
            key: meter.measure(train(flag), num_ms=3000)
            for key, flag in (("with_loss", True), ("without_loss", False), ("with_loss_again", True))
        }}  # fmt: skip

    return guarded("share of a step", errors, measure)
