"""The comparison of cache and online teacher at toy size."""

import json
import sys
from pathlib import Path

import pytest

from benchmarks.__main__ import main
from benchmarks.online import step_times


@pytest.mark.slow
def test_both_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--image-size", "32", "--teacher", "vit_tiny_patch16_224", "--limit", "8", "--batch-size", "2"]
    words = [*small, "--rounds", "2", "--warm-up", "1", "--device", "cpu", "--scratch", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["benchmarks", "online", *words, "--out", str(tmp_path / "r.json")])
    assert main() == 0, capsys.readouterr().err
    result = json.loads((tmp_path / "r.json").read_text())
    for kind in ("cache", "online"):
        assert result[kind]["step_ms"]["repeats"] == 2 * (8 // 2 - 1)
        assert 0 <= result[kind]["wait_ms"]["median"] < result[kind]["step_ms"]["p80"]
        assert result[kind]["peak_memory_bytes"] > 1 << 20
    assert result["cache"]["target_bytes_per_view"] > result["online"]["target_bytes_per_view"] == 0
    assert result["online_over_cache"]["repeats"] == 6
    assert "step by step" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]


def test_step_times_undo_the_running_means() -> None:
    """Three steps of 10, 20 and 30 ms, of which 1, 0 and 6 were waiting, 4 images each."""
    entries = [
        {"step": number, "images_per_s": 4000 * number / end, "stall_share": wait / end}
        for number, end, wait in ((1, 10, 1), (2, 30, 1), (3, 60, 7))
    ]
    assert step_times(entries, 4) == [
        (pytest.approx(10), pytest.approx(1)),
        (pytest.approx(20), pytest.approx(0, abs=1e-9)),
        (pytest.approx(30), pytest.approx(6)),
    ]
