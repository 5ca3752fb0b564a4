"""Operations on tokens alone in plain torch on a GPU, counted without one: launches and memory beside eager torch."""

import importlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from kdcache_kernels import reference, reference_spectral, second_moment, token_spectrum
from kdcache_kernels.launches import Traffic
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

OPERATIONS = ("token_spectrum", "second_moment", "quantize", "spectral_align")


def inside(operation: str) -> Any:
    """The module of an operation: fake tensors would call its operator, whose launches nobody counts."""
    return importlib.import_module(f"kdcache_kernels.{operation}")


def align(student: Tensor, teacher: Tensor) -> Tensor:
    """Forward and backward."""
    loss = inside("spectral_align")._loss(student, teacher)
    return inside("spectral_align")._gradient(torch.ones_like(loss), student, teacher)


def maps(device: str) -> tuple[Tensor, Tensor]:
    """Of a ViT's tokens, 192 and 384 channels."""
    student, teacher = (torch.empty(256, 14, 14, width, device=device).permute(0, 3, 1, 2) for width in (192, 384))
    return student, teacher


def eager_spectrum(tokens: Tensor, level: float = 0.9) -> tuple[Tensor, Tensor]:
    """What the operation promises, for tokens that are zero or not finite too, with sums in float64."""
    energies = torch.fft.fft(tokens).abs().square()
    total = energies.sum(-1, keepdim=True)
    is_zero = total == 0
    shares = (energies / total).masked_fill(is_zero, 0)
    mean = shares.sum(0, dtype=torch.float64) / (~is_zero).sum().clamp(min=1)
    counts = ((shares.cumsum(-1) < level).sum(-1, keepdim=True) + 1).clamp(max=tokens.shape[-1])
    counts = counts.masked_fill(is_zero, 0).masked_fill(~total.isfinite(), -1)
    return mean.float(), counts.int()


def eager_align(student: Tensor, teacher: Tensor) -> None:
    reference_spectral.spectral_align(student.requires_grad_(), teacher).backward()


def sides(operation: str) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Ours on a GPU, and eager torch on a CPU: its operations are the same, and its autograd would need a real GPU."""
    tokens, other = (torch.empty(50_176, 384, device=device) for device in ("cuda", "cpu"))
    both: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
        "token_spectrum": (
            lambda: inside(operation)._torch_form(tokens, [0.9], False),
            lambda: eager_spectrum(other),
        ),
        "second_moment": (lambda: second_moment(tokens), lambda: other.t() @ other / len(other)),
        "quantize": (lambda: inside(operation)._quantize_in_torch(tokens, "int8"), lambda: reference.quantize(other)),
        "spectral_align": (lambda: align(*maps("cuda")), lambda: eager_align(*maps("cpu"))),
    }
    return both[operation]


def test_eager_torch_gives_the_same_spectra() -> None:
    tokens = torch.randn(60, 48, generator=torch.Generator().manual_seed(0))
    tokens[7] = 0
    for given in (tokens, tokens.index_fill(0, torch.tensor([3]), torch.inf)):
        for ours, theirs in zip(token_spectrum(given), eager_spectrum(given), strict=True):
            torch.testing.assert_close(ours, theirs, equal_nan=True)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_it_launches_little_more_than_eager_torch(operation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KD_KERNELS", "torch")
    with FakeTensorMode():
        ours, theirs = sides(operation)
        with Traffic() as mine:
            ours()
        with Traffic() as others:
            theirs()
    assert mine.launches <= others.launches + 4, (mine.names, others.names)
    # The sums over 4,096 tokens each, and the float64 sum of those.
    partial = 13 * 384**2 * 4 if operation == "second_moment" else 0
    assert mine.peak_bytes <= others.peak_bytes + partial
