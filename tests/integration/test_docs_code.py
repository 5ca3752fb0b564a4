"""The Python of the documents runs as printed, on smaller inputs."""

from pathlib import Path
from typing import Any

import pytest
import torch
from kdcache_kernels import quantize

DOCS = Path(__file__).parents[2] / "docs"


def block(page: Path, holding: str) -> str:
    """The one block of Python of a page that holds a word."""
    blocks = [each.split("```")[0] for each in page.read_text().split("```python\n")[1:]]
    (found,) = [each for each in blocks if holding in each]
    return found


def test_the_loop_runs(tiny_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = DOCS / "training-loop.md"
    code = block(page, "CacheLoader")
    for shown, small in {
        '"caches/inet"': repr(str(tiny_root)),
        "batch_size=64": "batch_size=8",
        '"deit_tiny_patch16_224"': '"deit_tiny_patch16_224", img_size=16, patch_size=4, embed_dim=12, num_classes=10',
        'kind="logits"': 'kind="logits", codec="fp16"',
    }.items():
        assert shown in code
        code = code.replace(shown, small)
    exec(compile(code, str(page), "exec"), {})
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
    page = DOCS / "kernels.md"
    exec(compile(block(page, "proj_mse"), str(page), "exec"), scope)
    assert scope["loss"] > 0
    assert scope["bandwidth"].shape == (2, 7, 1)
    assert float(scope["energy"].sum()) == pytest.approx(1)
