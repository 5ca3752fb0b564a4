"""Kernels are interpreted where there is no GPU, with the interpreter's bfloat16 repaired."""

import os
from collections.abc import Iterator

import pytest
import torch


@pytest.fixture
def triton_form(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The Triton form of every operation; gives the device to put tensors on."""
    monkeypatch.setenv("KD_KERNELS", "triton")
    if os.environ.get("TRITON_INTERPRET") == "1":
        from tests.kernels.interpreter import repair

        repair()
        yield "cpu"
        return
    # Outputs are filled with NaN first, so an element that a kernel forgets to write shows.
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield "cuda"
    torch.use_deterministic_algorithms(False)
