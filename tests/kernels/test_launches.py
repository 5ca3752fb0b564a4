"""Launches recorded on tensors without data."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from kdcache_kernels.launches import Traffic

PROGRAM = """
import json, torch
from kdcache_kernels.launches import recorded
from kdcache_kernels.operations import OPERATIONS
operation = next(each for each in OPERATIONS if each.name == "mse 192->768 int8")
recording = operation.record(132, "sm_90")
print(json.dumps([
    {"name": each.case.name, "grid": each.grid, "bytes": each.bytes, "types": dict(each.case.types),
     "constants": {name: str(value) for name, value in each.case.constants.items()},
     "ragged": sorted(each.case.ragged), "programs": each.num_programs}
    for each in recording.kernels
]))
"""


@pytest.fixture(scope="module")
def recorded_mse() -> dict[str, Any]:
    """Launches of one loss, in a process that does not interpret kernels."""
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    run = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, env=environment, check=True)
    launches = json.loads(run.stdout)
    assert [each["name"] for each in launches] == [
        "gram_sums", "gram_reduce", "gram_finish", "gram_prepare", "gram_ds"
    ]  # fmt: skip
    return {each["name"]: each for each in launches}


def test_a_launch_is_what_the_compiler_would_be_given(recorded_mse: dict[str, Any]) -> None:
    sweep = recorded_mse["gram_sums"]
    assert sweep["types"]["S"] == "*bf16"
    assert sweep["types"]["T"] == "*i8"
    assert sweep["types"]["num_rows"] == "i32"
    assert sweep["constants"]["DS"] == "192"
    assert sweep["constants"]["HAS_SCALE"] == "True"
    # 50,176 is a multiple of 16, but the kernel asks not to be compiled for that.
    assert {"num_rows", "per_batch", "tiles_per_split"} <= set(sweep["ragged"])
    assert "s_row" not in sweep["ragged"]


def test_programs_fill_the_gpu_that_is_pretended(recorded_mse: dict[str, Any]) -> None:
    assert 100 < recorded_mse["gram_sums"]["programs"] <= 132
    assert recorded_mse["gram_ds"]["programs"] == 50_176 // 128


def test_each_tensor_counts_once(recorded_mse: dict[str, Any]) -> None:
    student, targets, scales = 50_176 * 192 * 2, 50_176 * 768, 50_176 * 4
    weights, square, constant, upstream = 768 * 192 * 2, 2 * 192 * 192 * 2, 192 * 4, 4
    whole = 2 * student + targets + scales + weights + square + constant + upstream
    assert recorded_mse["gram_ds"]["bytes"] == whole


def test_traffic_counts_bytes_launches_and_memory() -> None:
    left, right = torch.empty(8, 4, device="meta"), torch.empty(8, 4, device="meta")
    with Traffic() as traffic:
        made = left + right
        loss = F.mse_loss(made.view(4, 8), right.view(4, 8))
        del made
    assert traffic.names == ["aten::add", "aten::mse_loss"]
    assert traffic.launches == 2
    assert traffic.bytes == 3 * 128 + 2 * 128 + 4
    assert traffic.peak_bytes == 128 + 4
    assert traffic.live_bytes == loss.nbytes
