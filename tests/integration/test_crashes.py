"""SIGKILL at any moment: no partial shard is ever visible, and a rerun ends with the same bytes and losses."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from kdcache.cache import BaseFingerprint, open_cache
from kdcache.cache.manifest import fingerprint_digest
from kdcache.cli.main import main
from kdcache.strict_json import dump_json
from tests.cli.support import extract_words
from tests.cli.test_train import words as train_words
from tests.conftest import GROUP, SECOND_KWARGS, TEACHER
from tests.forked import command
from tests.integration import crash_sweep, kill_add
from tests.train.support import losses

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_killed_at_every_step_of_writing_a_cache(groups_root: Path, tmp_path: Path) -> None:
    """Of a pass that writes a base, a teacher's group and raw pixels, then of one that adds a group."""
    cache = open_cache(groups_root)
    base = msgspec.to_builtins(cache.manifest.fingerprint)
    base["source"]["num_samples"], base["shard_samples"] = 4, 2
    groups = {name: msgspec.to_builtins(group.manifest.fingerprint) for name, group in cache.groups.items()}
    kept = {GROUP: ["blocks-1-patch-int8"], "wide": ["head-logits-fp16"], "pixels": ["raw"]}
    for name, group in groups.items():
        group["base"] = fingerprint_digest(msgspec.convert(base, BaseFingerprint))
        group["columns"] = [column for column in group["columns"] if column["name"] in kept[name]]
        group["statistics"] = "light"
    (tmp_path / "plan.json").write_bytes(dump_json({"base": base, "groups": groups}))
    program = [sys.executable, crash_sweep.__file__, str(tmp_path), str(tmp_path / "plan.json")]
    result = subprocess.run(program, capture_output=True, text=True, check=False, timeout=900)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["problems"] == []
    assert found["kills"][0] > 100
    assert found["kills"][1] > 40


@pytest.mark.slow
def test_an_add_killed_at_ten_random_moments(tiny_root: Path, tmp_path: Path) -> None:
    """The base and the other group keep their hashes; a rerun gives those of an uninterrupted run."""
    kwargs = [f"{name}={value}" for name, value in SECOND_KWARGS.items()]
    words = ["extract", "--add", "--group", "wide", "--teacher", TEACHER, "--teacher-weights", "random"]
    words += ["--teacher-kwargs", *kwargs, "--tap", "blocks.-1/patch:int8", "--batch-size", "1", "--threads", "1"]
    program = [sys.executable, "-m", kill_add.__name__, str(tiny_root), str(tmp_path), *words, "--cpu-threads", "1"]
    result = subprocess.run(program, capture_output=True, text=True, check=False, timeout=300, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    before, whole = found["before"], found["whole"]
    assert {name.split("/")[0] for name in whole.keys() - before.keys()} == {"wide"}
    for cut in found["cuts"]:
        assert {name: cut["seen"].get(name) for name in before} == before
        assert cut["rerun"] == whole
        assert all(whole[name] == seen for name, seen in cut["seen"].items())
    assert sum(cut["killed"] for cut in found["cuts"]) >= 5


def killed_when(condition: object, words: list[str], path: Path) -> None:
    """Start a command in a process of its own and SIGKILL it as soon as the condition holds."""
    process = command(words)
    deadline = time.monotonic() + 120
    while not condition(path):
        assert process.poll() is None, f"it ended before it could be killed: {process.output()}"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


@pytest.mark.slow
def test_an_extraction_killed_in_the_middle_continues_to_the_same_hashes(tmp_path: Path) -> None:
    more = [
        "--tap",
        "blocks.-1/patch",
        "--tap",
        "head/logits",
        "--views",
        "2",
        "--view-recipe",
        "rrc-flip",
        "--batch-size",
        "4",
    ]
    assert main(extract_words(tmp_path / "whole", *more, limit=100)) == 0

    def some_shards_are_done(root: Path) -> bool:
        return (root / "index").is_dir() and len(list((root / "index").glob("*.h5"))) >= 3

    words = extract_words(tmp_path / "cut", *more, limit=100)
    killed_when(some_shards_are_done, words, tmp_path / "cut")
    assert not (tmp_path / "cut" / "manifest.json").exists()
    assert main(["verify", str(tmp_path / "cut")]) == 1
    assert main(words) == 0
    assert open_cache(tmp_path / "cut").digest == open_cache(tmp_path / "whole").digest


@pytest.mark.parametrize("every_steps", [pytest.param("none", marks=pytest.mark.slow), "3"])
def test_training_killed_in_the_middle_of_an_epoch_continues_to_the_same_losses(
    tiny_root: Path, tmp_path: Path, every_steps: str
) -> None:
    settings = ["--epochs", "24", "--set", "log_every=1", "--set", f"checkpoint.every_steps={every_steps}"]
    settings += ["--set", "cpu_threads=1"]
    assert main(train_words(tiny_root, tmp_path / "whole", *settings)) == 0

    def is_in_the_middle(run: Path) -> bool:
        metrics = run / "metrics.jsonl"
        return metrics.is_file() and metrics.read_bytes().count(b"\n") >= 43

    words = train_words(tiny_root, tmp_path / "cut", *settings)
    killed_when(is_in_the_middle, words, tmp_path / "cut")
    assert not (tmp_path / "cut" / "summary.json").exists()
    assert main(words) == 0
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    whole, cut = ((tmp_path / run / "student.safetensors").read_bytes() for run in ("whole", "cut"))
    assert whole == cut
