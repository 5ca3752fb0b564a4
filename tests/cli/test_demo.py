"""The whole demo with one epoch of everything; its full length is run by hand and in the README."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kdcache.cli import demo
from kdcache.cli.main import main
from tests.cli.support import fails


def test_the_demo_runs_and_shows_its_commands(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Seven fresh processes would spend a minute on importing torch.
    monkeypatch.setattr(demo, "_in_own_process", main)
    out = tmp_path / "demo"
    assert main(["demo", "--out", str(out), "--epochs", "1", "--teacher-epochs", "1"]) == 0
    shown = capfd.readouterr().out
    for verb, count in {"extract": 1, "verify": 1, "train": 5}.items():
        assert shown.count(f"$ kdcache {verb} ") == count
    for heading in ("top-1", "images/s", "bytes/image", "peak memory", "student alone", "Lift, int8 cache", "WideLast"):
        assert heading in shown
    summary = json.loads((out / "summary.json").read_bytes())
    assert len(summary["runs"]) == 5
    int8, fp16 = (summary["runs"][f"Lift, {codec} cache"]["target_bytes_per_view"] for codec in ("int8", "fp16"))
    assert int8 < fp16
    assert np.asarray(Image.open(out / "curves.png")).shape[1] > 800


def test_a_step_that_fails_stops_the_demo(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "_in_own_process", lambda words: 1)
    message = fails(capsys, ["demo", "--out", str(tmp_path), "--epochs", "1", "--teacher-epochs", "1"])
    assert "`kdcache extract` ended with exit code 1" in message
