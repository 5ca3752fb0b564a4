"""Benchmarks stay runnable: each at toy size."""

import json
import sys
from pathlib import Path

import pytest

from benchmarks.__main__ import BENCHMARKS, main
from benchmarks.record import spread


def test_the_teacher_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "--teacher",
        "vit_tiny_patch16_224",
        "--limit",
        "2",
        "--views",
        "1",
        "--repeats",
        "2",
        "--scratch",
        str(tmp_path),
    ]
    monkeypatch.setattr(sys, "argv", ["benchmarks", "teacher_pass", *words, "--out", str(tmp_path / "r.json")])
    assert main() == 0
    result = json.loads((tmp_path / "r.json").read_text())
    assert result["pass_over_bare"]["repeats"] == 2
    assert set(result["stage_shares"]) == {"read", "compute", "write"}
    assert "whole pass, views/s" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]


def test_unknown_names_list_the_known(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmarks", "nothing"])
    assert main() == 2
    assert all(name in capsys.readouterr().err for name in BENCHMARKS)


def test_spread() -> None:
    assert spread([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]) == {"median": 3.5, "p20": 2.0, "p80": 5.0, "repeats": 6}
