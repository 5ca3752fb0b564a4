"""The whole demo with one epoch of everything; its full length is run by hand and in the README."""

import json
import os
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kdcache.cli import demo
from kdcache.cli.main import main
from tests.cli.support import fails

BRIEF = ["--epochs", "1", "--teacher-epochs", "1"]


def in_this_process(words: list[str], *, quiet: bool = False) -> tuple[int, str]:
    # Fresh processes would spend a minute on importing torch.
    return main(words), ""


def test_the_demo_runs_and_shows_its_commands(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "_in_own_process", in_this_process)
    # torch's seeds belong to the process, so two runs cannot share one.
    monkeypatch.setattr(demo, "_MOST_JOBS", 1)
    out = tmp_path / "demo"
    assert main(["demo", "--out", str(out), *BRIEF, "--seeds", "2"]) == 0
    shown = capfd.readouterr().out
    for verb, count in {"extract": 1, "verify": 1, "train": 5}.items():
        assert shown.count(f"$ kdcache {verb} ") == count
    assert shown.count("the same command with --seed 1 --out") == 5
    for words in ("top-1", "images/s", "bytes/image", "peak memory", "student alone", "over 2 seeds"):
        assert words in shown
    summary = json.loads((out / "summary.json").read_bytes())
    assert list(summary["rows"]) == ["student alone", "logits", "feature", "Lift", "WideLast"]
    assert len(summary["runs"]) == 10
    for row, figures in summary["rows"].items():
        top1 = [summary["runs"][f"{row}, seed {seed}"]["top1"] for seed in range(2)]
        assert figures["top1"] == top1
    read = {row: figures["target_bytes_per_view"] for row, figures in summary["rows"].items()}
    assert 0 == read["student alone"] < read["logits"] < read["feature"] == read["Lift"]
    assert np.asarray(Image.open(out / "curves.png")).shape[1] > 800
    assert main(["report", str(out), "--out", str(tmp_path / "report.html")]) == 0


def test_students_train_two_at_a_time_and_a_failure_shows_its_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    both = threading.Barrier(2, timeout=60)
    begun: list[str] = []

    def train(words: list[str], *, quiet: bool = False) -> tuple[int, str]:
        if words[0] != "train":
            return 0, ""
        begun.append(words[words.index("--method") + 1])
        if len(begun) <= 2:
            both.wait()
        return 3, "the child's own message\n"

    monkeypatch.setattr(demo, "_in_own_process", train)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    message = fails(capsys, ["demo", "--out", str(tmp_path), *BRIEF])
    assert "the child's own message" in message
    assert "`kdcache train` ended with exit code 3" in message
    assert {"none", "logit"} <= set(begun)
    assert len(begun) < 15


def test_a_step_that_fails_stops_the_demo(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "_in_own_process", lambda words, **_: (1, ""))
    message = fails(capsys, ["demo", "--out", str(tmp_path), *BRIEF])
    assert "`kdcache extract` ended with exit code 1" in message


def test_a_command_runs_in_its_own_process_and_quietly() -> None:
    code, output = demo._in_own_process(["fly"], quiet=True)
    assert code == 2
    assert "fly" in output


def test_no_seed_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = fails(capsys, ["demo", "--out", str(tmp_path), "--seeds", "0"], code=2)
    assert "--seeds must be at least 1" in message
