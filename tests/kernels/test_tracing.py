"""Eager calls pass by torch's operators, and give what those give."""

import importlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from kdcache_kernels import lift_tokens, proj_mse, quantize, spectral_align, token_spectrum
from kdcache_kernels.tracing import needs_operator
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.profiler import ProfilerActivity, profile


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


def of_loss() -> list[Tensor]:
    leaves = [each.requires_grad_() for each in (noise(20, 6), noise(9, 6), noise(9))]
    loss = proj_mse(*leaves, noise(20, 9))
    return [loss, *torch.autograd.grad(3 * loss, leaves)]


def of_lift() -> list[Tensor]:
    tokens, weight = noise(2, 5, 6).requires_grad_(), noise(9, 6).requires_grad_()
    whole = lift_tokens(tokens, weight, noise(9), noise(9)).whole()
    return [whole, *torch.autograd.grad(whole.square().sum(), (tokens, weight))]


def of_alignment() -> list[Tensor]:
    student = noise(2, 4, 6, 6).requires_grad_()
    loss = spectral_align(student, noise(2, 8, 6, 6))
    return [loss, *torch.autograd.grad(3 * loss, student)]


def of_tokens() -> list[Tensor]:
    tokens = noise(7, 16).requires_grad_()
    found = [*quantize(tokens), *token_spectrum(tokens, levels=(0.5,))]
    assert not any(each.requires_grad for each in found)
    return found


CALLS = [of_loss, of_lift, of_alignment, of_tokens]


@pytest.fixture(autouse=True)
def plain_torch(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("KD_KERNELS", "torch")
    yield


def operators_of(call: Callable[[], Any]) -> set[str]:
    with profile(activities=[ProfilerActivity.CPU], acc_events=True) as profiler:  # else torch 2.11 warns
        call()
    return {
        event.name for event in profiler.events() or () if event.name.startswith(("kd::", "GeneratedBackwardFor_kd"))
    }


@pytest.mark.parametrize("call", CALLS)
def test_both_ways_give_the_same_bits(call: Callable[[], list[Tensor]], monkeypatch: pytest.MonkeyPatch) -> None:
    assert operators_of(call) == set()
    eager = call()
    modules = ("projection_operators", "lift", "spectral_align", "quantize", "token_spectrum")
    for module in modules:
        monkeypatch.setattr(importlib.import_module(f"kdcache_kernels.{module}"), "needs_operator", lambda *_: True)
    assert operators_of(call)
    for one, two in zip(eager, call(), strict=True):
        assert torch.equal(one, two)


def test_a_second_derivative_is_refused_without_an_operator_too() -> None:
    student = noise(20, 6).requires_grad_()
    loss = proj_mse(student, noise(9, 6), None, noise(20, 9))
    (gradient,) = torch.autograd.grad(loss, student, create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivative"):
        gradient.square().sum().backward()


def test_who_needs_an_operator() -> None:
    plain = torch.zeros(2)
    assert not needs_operator(plain, nn.Parameter(plain), None)
    with FakeTensorMode() as mode:
        assert needs_operator(plain, mode.from_tensor(plain))

    class Own(Tensor):
        pass

    assert needs_operator(plain.as_subclass(Own))
