"""Two processes under torchrun (gloo): the same shards as one, the same global batches as one."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch

from kdcache.cache import open_cache
from kdcache.cli.main import main
from kdcache.distributed.env import RESTART_VARIABLE
from tests.cli.support import extract_words
from tests.cli.test_train import words as train_words
from tests.forked import two_ranks_of
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


@pytest.mark.slow
def test_extraction(tmp_path: Path) -> None:
    more = ["--tap", "blocks.-1/patch:fp32", "--tap", "head/logits", "--views", "2", "--view-recipe", "rrc-flip"]
    assert main(extract_words(tmp_path / "one", *more, limit=22)) == 0
    result = torchrun(extract_words(tmp_path / "two", *more, limit=22))
    assert result.returncode == 0, result.stderr
    assert open_cache(tmp_path / "two").digest == open_cache(tmp_path / "one").digest


@pytest.mark.slow
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


SETTINGS = [
    *("--epochs", "2", "--eval-data", "digits:test", "--set", "log_every=1", "--set", "ema_decay=0.5"),
    *("--set", "checkpoint.every_steps=3", "--set", "checkpoint.keep=9", "--set", "optimizer.name=momentum"),
    *("--set", "optimizer.lr=0.1", "--set", "optimizer.clip_grad=1.0"),
]
KINDS = {"one": [], "ddp": ["--set", "parallel=ddp"], "fsdp": ["--set", "parallel=fsdp"]}


def run_as(kind: str, root: Path, out: Path) -> Path:
    command = train_words(root, out, *SETTINGS, *KINDS[kind])
    if kind == "one":
        assert main(command) == 0
    else:
        two_ranks_of(command)
    return out


@pytest.fixture(scope="module")
def whole(tiny_root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same run by one process, and by two that divide its weights."""
    folder = tmp_path_factory.mktemp("whole")
    return {kind: run_as(kind, tiny_root, folder / kind) for kind in ("one", "fsdp")}


def assert_same_run(found: Path, wanted: Path) -> None:
    for one, two in zip(losses(found), losses(wanted), strict=True):
        assert one == pytest.approx(two, rel=1e-4, abs=1e-6)
    for name in ("student", "student-ema", "student-best"):
        one, two = (safetensors.torch.load_file(each / f"{name}.safetensors") for each in (found, wanted))
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-4)
    one, two = (json.loads((each / "summary.json").read_bytes()) for each in (found, wanted))
    for figure in ("num_parameters", "steps", "num_images"):
        assert one[figure] == two[figure]
    assert one["top1"] == pytest.approx(two["top1"], abs=1.0)


def test_divided_weights_make_the_run_of_one_process(whole: dict[str, Path]) -> None:
    assert_same_run(whole["fsdp"], whole["one"])


@pytest.mark.slow
@pytest.mark.parametrize(("begun", "resumed"), [("fsdp", "one"), ("one", "fsdp"), ("fsdp", "ddp")])
def test_a_run_resumes_on_other_ranks(
    whole: dict[str, Path], tiny_root: Path, tmp_path: Path, begun: str, resumed: str
) -> None:
    """From its third step, as if it had been killed after it."""
    run = Path(shutil.copytree(whole[begun], tmp_path / "run"))
    for path in [*run.glob("student*.safetensors"), run / "summary.json", *run.glob("checkpoints/*")]:
        if "step-000000003" not in path.name:
            path.unlink()
    run_as(resumed, tiny_root, run)
    assert_same_run(run, whole["one"])
