"""Two teachers of different widths and grids, one cache, one student: trained, resumed, accumulated, on two ranks."""

import argparse
import shutil
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from kdcache.cli.main import main
from kdcache.cli.train import add_arguments
from kdcache.cli.train_config import read_config
from kdcache.teacher.extract import extract
from kdcache.train import train
from kdcache.train.metrics import read_metrics
from tests.conftest import GROUP, SECOND_KWARGS, tiny_add
from tests.forked import two_ranks_of
from tests.train.support import losses

VIT = ["vit_tiny_patch16_224", "patch_size=4", "embed_dim=12", "depth=2", "num_heads=3"]
# Not a ResNet: tokens that end in a ReLU have no negative cosines, which those of a ViT teacher have.
CONVNET = ["convnext_atto", "depths=[1,1,1,1]", "dims=[16,24,32,48]"]
BOTH = f"teacher={GROUP}:blocks.-1/patch:int8+coarse:blocks.-1/patch,resize=student"
METHODS = {
    "tokens": [
        "--method",
        "none",
        "--term",
        f"logits:teacher={GROUP}:head/logits:fp16",
        "--term",
        f"tokens:{BOTH},transform=phi-s",
    ],
    "relational": [
        "--method",
        "none",
        "--term",
        "cross-entropy:weight=0",
        "--term",
        f"gram:{BOTH}",
        "--term",
        f"token-similarity:{BOTH}",
    ],
}
# Terms that run parts of the student, or keep a state; their cache has the tokens of all blocks of one teacher.
STATEFUL = {
    "local": ["--method", "none", "--term", "local"],
    "local alone": ["--method", "none", "--term", "cross-entropy:weight=0", "--term", "local"],
    "proteus": ["--method", "proteus"],
    "proteus unmasked": ["--method", "proteus:masked_weight=0"],
    "leap": ["--method", "none", "--term", "leap:max_steps=2,threshold=1,start=first"],
}
DEEP = ["vit_tiny_patch16_224", "patch_size=4", "embed_dim=24", "depth=3", "num_heads=3"]
NAMES = {"tokens": ["tokens"], "relational": ["gram", "token-similarity"]}


@pytest.fixture(scope="module")
def two_grids(tiny_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher of width 24 on 4 x 4 tokens, and one of width 36 on 2 x 2."""
    root = Path(shutil.copytree(tiny_root, tmp_path_factory.mktemp("caches") / "grids"))
    extract(tiny_add(root, group="coarse", teacher_kwargs={**SECOND_KWARGS, "patch_size": 8}))
    return root


def words(root: Path, out: Path, student: list[str], method: str, *more: str) -> list[str]:
    command = ["train", "--cache", str(root), "--out", str(out), "--student", student[0], "--student-kwargs"]
    command += [
        *student[1:],
        *{**METHODS, **STATEFUL}[method],
        "--batch-size",
        "4",
        "--set",
        "log_every=1",
        "--set",
        "cpu_threads=1",
    ]
    if student is CONVNET:
        # It shrinks 32 times, so it is given the views at 32 pixels: its maps are 8 x 8, 4 x 4, 2 x 2 and 1 x 1.
        more = ("--set", "image_size=32", *more)
        command = [each.replace("resize=", "student_block=1,resize=") for each in command]
    return [*command, "--set", "optimizer.lr=5e-3", "--set", "data.num_threads=1", *more]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("student", [VIT, CONVNET], ids=["vit", "convnet"])
def test_one_command_trains_on_both(
    two_grids: Path, tmp_path: Path, student: list[str], method: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(two_grids, tmp_path / "run", student, method, "--epochs", "8")) == 0
    assert ("its head stays untrained" in capsys.readouterr().err) == (method == "relational")
    entries = losses(tmp_path / "run")
    assert len(entries) == 40
    for name in NAMES[method]:
        assert sum(entry[name] for entry in entries[-5:]) < 0.9 * sum(entry[name] for entry in entries[:5])


@pytest.mark.parametrize("method", [*METHODS, "local", "proteus", "leap"])
@pytest.mark.slow
def test_resuming_at_any_step(two_grids: Path, blocks_root: Path, tmp_path: Path, method: str) -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    cache, student = (blocks_root, DEEP) if method in STATEFUL else (two_grids, VIT)
    command = words(cache, tmp_path, student, method, "--epochs", "1", "--set", "checkpoint.every_steps=1")
    config = read_config(parser.parse_args(command[1:]))
    train(cache, tmp_path / "whole", config)
    for step in range(1, 5):
        run = tmp_path / f"cut-{step}"

        def stop(kind: str, values: dict[str, Any], step: int = step) -> None:
            if kind == "step" and values["step"] == step:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            train(cache, run, config, on_event=stop)
        train(cache, run, config)
        assert losses(run) == losses(tmp_path / "whole")
        one, two = (safetensors.torch.load_file(each / "student.safetensors") for each in (run, tmp_path / "whole"))
        assert all(torch.equal(one[name], value) for name, value in two.items())


@pytest.mark.parametrize("method", [*METHODS, "local", "proteus unmasked"])
def test_accumulation_gives_the_losses_of_the_whole_batch(
    two_grids: Path, blocks_root: Path, tmp_path: Path, method: str
) -> None:
    cache, student = (blocks_root, DEEP) if method in STATEFUL else (two_grids, VIT)
    for name, more in {"whole": [], "pieces": ["--set", "accumulate=2"]}.items():
        assert main(words(cache, tmp_path / name, student, method, "--epochs", "1", *more)) == 0
    for one, two in zip(losses(tmp_path / "whole"), losses(tmp_path / "pieces"), strict=True):
        assert two == pytest.approx(one, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("method", [*METHODS, "local alone", "proteus unmasked", "leap"])
def test_two_ranks_have_the_losses_of_one(two_grids: Path, blocks_root: Path, tmp_path: Path, method: str) -> None:
    cache, student = (blocks_root, DEEP) if method in STATEFUL else (two_grids, VIT)
    assert main(words(cache, tmp_path / "one", student, method, "--epochs", "1")) == 0
    two_ranks_of(words(cache, tmp_path / "two", student, method, "--epochs", "1"))
    for one, two in zip(losses(tmp_path / "one"), losses(tmp_path / "two"), strict=True):
        assert two == pytest.approx(one, rel=1e-3, abs=1e-5)
    assert len(read_metrics(tmp_path / "two", "step")) == 5


@pytest.mark.slow
def test_two_ranks_with_masked_patches(blocks_root: Path, tmp_path: Path) -> None:
    """They draw other patches than one rank does, so only what does not depend on the draws is compared."""
    two_ranks_of(words(blocks_root, tmp_path / "two", DEEP, "proteus", "--epochs", "4"))
    found = [entry["proteus"] for entry in losses(tmp_path / "two")]
    assert sum(found[-5:]) < 0.9 * sum(found[:5])
