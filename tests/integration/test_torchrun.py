"""Two processes under torchrun (gloo): the same shards as one, the same global batches as one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kdcache.cache import open_cache
from kdcache.cli.main import main
from kdcache.distributed.env import RESTART_VARIABLE
from tests.cli.support import extract_words
from tests.cli.test_train import words as train_words
from tests.train.support import losses


def torchrun(words: list[str]) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "kdcache",
        *words,
    ]
    environment = {**os.environ, RESTART_VARIABLE: "1"}
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=240, env=environment)


def test_extraction(tmp_path: Path) -> None:
    more = ["--tap", "blocks.-1/patch:fp32", "--tap", "head/logits", "--views", "2", "--view-recipe", "rrc-flip"]
    assert main(extract_words(tmp_path / "one", *more, limit=22)) == 0
    result = torchrun(extract_words(tmp_path / "two", *more, limit=22))
    assert result.returncode == 0, result.stderr
    assert open_cache(tmp_path / "two").digest == open_cache(tmp_path / "one").digest


def test_training_and_resuming(tiny_root: Path, tmp_path: Path) -> None:
    settings = ["--epochs", "3", "--set", "log_every=1", "--eval-data", "digits:test"]
    assert main(train_words(tiny_root, tmp_path / "one", *settings)) == 0
    result = torchrun(train_words(tiny_root, tmp_path / "two", *settings))
    assert result.returncode == 0, result.stderr
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(one) == len(two) == 15
    for alone, together in zip(one, two, strict=True):
        assert together == pytest.approx(alone, rel=1e-3, abs=1e-5)
    names = {path.name for path in (tmp_path / "two").iterdir()}
    assert {"config.json", "metrics.jsonl", "summary.json", "student.safetensors", "checkpoints"} <= names
