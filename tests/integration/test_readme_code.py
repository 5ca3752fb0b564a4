"""The Python in the README runs as printed, on smaller inputs."""

from pathlib import Path
from typing import Any

import pytest
import torch
from kdcache_kernels import quantize

README = Path(__file__).parents[2] / "README.md"


def block(holding: str) -> str:
    """The one block of Python that holds a word."""
    blocks = [each.split("```")[0] for each in README.read_text().split("```python\n")[1:]]
    (found,) = [each for each in blocks if holding in each]
    return found


def test_the_loop_runs(tiny_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = block("CacheLoader")
    for shown, small in {
        '"caches/inet"': repr(str(tiny_root)),
        "batch_size=64": "batch_size=8",
        '"deit_tiny_patch16_224"': '"deit_tiny_patch16_224", img_size=16, patch_size=4, embed_dim=12, num_classes=10',
        'kind="logits"': 'kind="logits", codec="fp16"',
    }.items():
        assert shown in code
        code = code.replace(shown, small)
    exec(compile(code, str(README), "exec"), {})
    assert float(capsys.readouterr().out.split()[0]) > 0


def test_the_kernels_run() -> None:
    torch.manual_seed(0)
    teacher = torch.randn(2, 7, 24)
    packed, scale, *_ = quantize(teacher)
    scope: dict[str, Any] = {
        "student_tokens": torch.randn(2, 7, 12, requires_grad=True),
        "weight": torch.randn(24, 12, requires_grad=True),
        "bias": torch.zeros(24, requires_grad=True),
        "packed_int8": packed,
        "scale": scale,
        "teacher_tokens": teacher,
    }
    exec(compile(block("proj_mse"), str(README), "exec"), scope)
    assert scope["loss"] > 0
    assert scope["bandwidth"].shape == (2, 7, 1)
    assert float(scope["energy"].sum()) == pytest.approx(1)
