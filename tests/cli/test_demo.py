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

ROWS = {"student alone", "logits", "feature", "Lift", "WideLast"}
BRIEF = ["--epochs", "1", "--teacher-epochs", "1"]


def in_this_process(words: list[str], *, quiet: bool = False) -> tuple[int, str]:
    # Fresh processes would spend a minute on importing torch.
    return main(words), ""


@pytest.mark.slow
def test_the_demo_runs_and_shows_its_commands(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "_in_own_process", in_this_process)
    # torch's seeds belong to the process, so two runs cannot share one.
    monkeypatch.setattr(demo, "_MOST_JOBS", 1)
    out = tmp_path / "demo"
    assert main(["demo", "--out", str(out), *BRIEF, "--seeds", "1"]) == 0
    shown = capfd.readouterr().out
    for verb, count in {"extract": 1, "verify": 1, "train": 5}.items():
        assert shown.count(f"$ kdcache {verb} ") == count
    for words in ("top-1", "images/s", "bytes/image", "peak memory", "student alone", "One seed"):
        assert words in shown
    summary = json.loads((out / "summary.json").read_bytes())
    assert set(summary["rows"]) == ROWS
    read = {row: figures["target_bytes_per_view"] for row, figures in summary["rows"].items()}
    assert 0 == read["student alone"] < read["logits"] < read["feature"] == read["Lift"]
    assert np.asarray(Image.open(out / "curves.png")).shape[1] > 800
    assert main(["report", str(out), "--out", str(tmp_path / "report.html")]) == 0


class FakeTraining:
    """Stands for `kdcache train`: top-1 is 90 and the seed, and the second method is 5 better."""

    def __init__(self, code: int = 0) -> None:
        self.code, self.begun = code, 0
        self.two_at_a_time = threading.Barrier(2, timeout=60)

    def __call__(self, words: list[str], *, quiet: bool = False) -> tuple[int, str]:
        if words[0] != "train":
            return 0, ""
        self.begun += 1
        if self.begun <= 2:
            self.two_at_a_time.wait()
        method, seed, out = (words[words.index(flag) + 1] for flag in ("--method", "--seed", "--out"))
        summary = {"top1": 90.0 + int(seed) + 5 * (method == "logit"), "num_images": 360, "num_parameters": 1000}
        summary |= {"images_per_s": 1.0, "target_bytes_per_view": 0, "peak_memory_bytes": 1}
        Path(out).mkdir(parents=True)
        (Path(out) / "summary.json").write_text(json.dumps(summary))
        return self.code, "the run's own message\n"


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> FakeTraining:
    """Two cores, a teacher that is there, and training that takes no time."""
    training = FakeTraining()
    monkeypatch.setattr(demo, "_teacher", lambda out, epochs: 96.0)
    monkeypatch.setattr(demo, "_in_own_process", training)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    return training


@pytest.mark.usefixtures("fakes")
def test_every_row_is_trained_with_every_seed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--out", str(tmp_path), "--seeds", "3"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("$ kdcache train ") == 5
    assert shown.count("the same command with --seed 2 --out") == 5
    assert "96.0 ± 1.0 %" in shown
    assert "logits above student alone (5.0)" in shown
    summary = json.loads((tmp_path / "summary.json").read_bytes())
    assert summary["rows"]["student alone"]["top1"] == [90.0, 91.0, 92.0]
    assert len(summary["runs"]) == 15


def test_a_run_that_fails_shows_its_message_and_stops_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], fakes: FakeTraining
) -> None:
    fakes.code = 3
    message = fails(capsys, ["demo", "--out", str(tmp_path)])
    assert "the run's own message" in message
    assert "`kdcache train` ended with exit code 3" in message
    assert 2 <= fakes.begun < 15


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
