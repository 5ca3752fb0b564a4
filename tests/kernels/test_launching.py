"""Launches find what was compiled for exactly their arguments."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from kdcache_kernels.device import launching
from kdcache_kernels.device.launching import num_blocks, power_of_two, run
from torch import Tensor


class OnGpu(Tensor):
    """A tensor that says it lies on a GPU."""

    is_cuda = True
    device = torch.device("cuda", 0)


class Jitted:
    """What a launch asks of a function under ``triton.jit``, and a record of what it was asked."""

    arg_names = ("x", "y", "count", "BLOCK", "IS_FLAT")

    def __init__(self) -> None:
        self.compiled: list[tuple[Any, ...]] = []
        self.relaunched: list[tuple[Any, ...]] = []

    def fn(self) -> None:
        """Its name by which it is told from others."""

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        def first(*arguments: Any, **named: Any) -> Any:
            self.compiled.append((grid, *arguments, *named.items()))
            return Compiled(self)

        return first


class Compiled:
    """What the first launch gives."""

    def __init__(self, kernel: Jitted) -> None:
        self.kernel = kernel

    def __getitem__(self, grid: tuple[int, int, int]) -> Any:
        assert len(grid) == 3
        return lambda *arguments: self.kernel.relaunched.append((grid, *arguments))


@pytest.fixture(autouse=True)
def nothing_compiled() -> Iterator[None]:
    launching._compiled.clear()
    yield
    launching._compiled.clear()


def floats(size: int = 8) -> Tensor:
    return torch.zeros(size).as_subclass(OnGpu)


def test_the_same_form_is_compiled_once_and_gets_every_argument_in_order() -> None:
    kernel, x, y = Jitted(), floats(), floats()
    for _ in range(3):
        run(kernel, (5,), x, y, 8, IS_FLAT=True, BLOCK=64, num_warps=4)
    assert len(kernel.compiled) == 1
    [grid, first, second, *rest] = kernel.relaunched[-1]
    assert (grid, rest) == ((5, 1, 1), [8, 64, True])
    assert first is x and second is y
    assert len(kernel.relaunched) == 2


def test_whatever_a_compiled_form_may_depend_on_makes_another() -> None:
    kernel, x = Jitted(), floats(64)
    one: dict[str, Any] = {"BLOCK": 64, "IS_FLAT": True, "num_warps": 4}
    launches: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
        ((x, x, 8), one),
        ((x, x.half(), 8), one),
        ((x, x[1:], 8), one),
        ((x, x, 16), one),
        ((x, x, 8), {**one, "BLOCK": 32}),
        ((x, x, 8), {**one, "num_warps": 8}),
    ]
    for arguments, named in launches * 2:
        run(kernel, (2, 3), *arguments, **named)
    assert len(kernel.compiled) == len(launches)
    other = Jitted()
    run(other, (2, 3), *launches[0][0], **one)
    assert len(other.compiled) == 1


def test_what_is_remembered_does_not_grow_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launching, "_MOST", 10)
    kernel, x = Jitted(), floats()
    for count in range(100):
        run(kernel, (1,), x, x, count, BLOCK=1, IS_FLAT=False)
    assert len(launching._compiled) <= 10


def test_on_a_cpu_nothing_is_remembered() -> None:
    kernel, x = Jitted(), torch.zeros(4)
    for _ in range(2):
        run(kernel, (1,), x, x, 4, BLOCK=1, IS_FLAT=False)
    assert len(kernel.compiled) == 2


def test_sizes() -> None:
    assert [num_blocks(length, 4) for length in (0, 1, 4, 5)] == [0, 1, 1, 2]
    assert [power_of_two(number) for number in (1, 2, 3, 4, 5, 768)] == [1, 2, 4, 4, 8, 1024]
