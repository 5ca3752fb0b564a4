"""The training loop in the README runs as printed, on a smaller cache and student."""

from pathlib import Path

import pytest

README = Path(__file__).parents[2] / "README.md"


def test_the_loop_runs(tiny_root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    code = README.read_text().split("```python\n")[1].split("```")[0]
    for shown, small in {
        '"caches/inet"': repr(str(tiny_root)),
        "batch_size=64": "batch_size=8",
        '"deit_tiny_patch16_224"': '"deit_tiny_patch16_224", img_size=16, patch_size=4, embed_dim=12, num_classes=10',
        'kind="logits"': 'kind="logits", codec="fp16"',
    }.items():
        assert shown in code
        code = code.replace(shown, small)
    scope: dict[str, object] = {}
    exec(compile(code, str(README), "exec"), scope)
    assert float(str(capsys.readouterr().out).split()[0]) > 0
