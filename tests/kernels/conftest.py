"""Kernels are interpreted where there is no GPU, with the interpreter's bfloat16 repaired."""

import os
from collections.abc import Iterator

import pytest
import torch
from kdcache_kernels import dispatch

read_table = dispatch.read_table


@pytest.fixture
def triton_form(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The Triton form of every operation; gives the device to put tensors on."""
    monkeypatch.setenv("KD_KERNELS", "triton")
    # Outputs are filled with NaN first, so an element that a kernel forgets to write shows.
    torch.use_deterministic_algorithms(True, warn_only=True)
    if os.environ.get("TRITON_INTERPRET") == "1":
        from tests.kernels.interpreter import repair

        repair()
        yield "cpu"
    else:
        # Tests use widths that no table has; the interpreter's settings are right for all of them.
        monkeypatch.setattr(dispatch, "read_table", lambda arch: read_table(dispatch.INTERPRETER))
        dispatch._chosen.cache_clear()
        yield "cuda"
        dispatch._chosen.cache_clear()
    torch.use_deterministic_algorithms(False)


@pytest.fixture(params=["torch", "triton"])
def form(request: pytest.FixtureRequest) -> str:
    """Each form of an operation in turn; gives the device to put tensors on."""
    return request.getfixturevalue("triton_form") if request.param == "triton" else "cpu"
