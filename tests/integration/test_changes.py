"""Changed students on the whole way: from the cache and the teacher's weights to a run that is loaded and resumed."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from kdcache.methods.lift import lift
from kdcache.methods.low_rank import low_rank
from kdcache.methods.wecolora import wecolora
from kdcache.methods.wide_last import wide_last
from kdcache.models import count_parameters, load_weights
from kdcache.students.low_rank import LowRank
from kdcache.train import train
from kdcache.train.config import RunConfig
from kdcache.train.folder import load_student, save_weights
from kdcache.train.metrics import read_metrics
from tests.conftest import TEACHER, TEACHER_KWARGS
from tests.train.support import losses, tiny_run

TAP = ("blocks.-1/patch:fp16",)
KWARGS = {key: value for key, value in TEACHER_KWARGS.items() if key not in ("img_size", "num_classes")}


@pytest.fixture
def run_of(tmp_path: Path) -> Any:
    """A run of a method on the teacher's own architecture, beginning with weights of its shapes."""
    torch.manual_seed(0)
    save_weights(tmp_path / "teacher.safetensors", timm.create_model(TEACHER, **TEACHER_KWARGS))

    def make(method: Any, *settings: str) -> RunConfig:
        weights = str(tmp_path / "teacher.safetensors") if method.change.needs_weights else None
        usual = ("optimizer.lr=3e-3", "scheduler.warmup_epochs=0", "epochs=6")
        given = {each.partition("=")[0]: each for each in (*usual, *settings)}
        config = tiny_run(*given.values(), method=method)
        return replace(config, student_kwargs=KWARGS, student_weights=weights)

    return make


METHODS = {
    "lift-released": lift(teacher=TAP, init="released", logit_weight=0.0, width=24),
    "widelast-fixed": wide_last(teacher=TAP, schedule="fixed_step", logit_weight=0.0, width=24),
    "weight-copy": wecolora(teacher=("blocks.-1/prefix", *TAP), every=2, rank=8),
    "weight-copy-plain": wecolora(teacher=TAP, every=2, adapters="none"),
    "low-rank": low_rank(rank=4),
    "low-rank-budget": replace(low_rank(), change=LowRank(budget=0.2, min_rank=2, rank_step=2)),
}


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.slow
def test_the_loss_falls_and_the_run_is_loaded_again(name: str, run_of: Any, tiny_root: Path, tmp_path: Path) -> None:
    summary = train(tiny_root, tmp_path / "run", run_of(METHODS[name]))
    seen = [entry["loss"] for entry in read_metrics(tmp_path / "run", "step")]
    assert sum(seen[-5:]) < 0.97 * sum(seen[:5])
    student, spec, *_ = load_student(tmp_path / "run")
    assert spec.change.name == METHODS[name].change.name
    assert student(torch.zeros(1, 3, 16, 16)).shape == (1, 10)
    assert summary["num_parameters"] == sum(parameter.numel() for parameter in student.parameters())
    if name.startswith("low-rank"):
        full = timm.create_model(TEACHER, **TEACHER_KWARGS)
        assert summary["num_parameters"] < summary["num_dense_parameters"] == count_parameters(full)
    else:
        assert summary["num_parameters"] == summary["num_dense_parameters"]


@pytest.mark.parametrize("name", ["weight-copy", "low-rank"])
@pytest.mark.slow
def test_an_interrupted_run_of_a_compressed_student_resumes_to_the_same_bits(
    name: str, run_of: Any, tiny_root: Path, tmp_path: Path
) -> None:
    class Killed(BaseException):
        pass

    def kill(kind: str, values: dict[str, Any]) -> None:
        if kind == "step" and values["step"] == 3:
            raise Killed

    config = run_of(METHODS[name], "epochs=1", "checkpoint.every_steps=1")
    train(tiny_root, tmp_path / "whole", config)
    with pytest.raises(Killed):
        train(tiny_root, tmp_path / "killed", config, on_event=kill)
    train(tiny_root, tmp_path / "killed", config)
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")


def test_frozen_weights_do_not_move(run_of: Any, tiny_root: Path, tmp_path: Path) -> None:
    train(tiny_root, tmp_path / "run", run_of(METHODS["weight-copy"], "epochs=1"))
    student, *_ = load_student(tmp_path / "run")
    full = timm.create_model(TEACHER, **TEACHER_KWARGS)
    load_weights(full, tmp_path / "teacher.safetensors")
    block: Any = student.network.blocks[0]
    torch.testing.assert_close(block.attn.qkv.linear.weight, full.blocks[0].attn.qkv.weight, rtol=0, atol=0)
    torch.testing.assert_close(block.norm1.weight, full.blocks[0].norm1.weight, rtol=0, atol=0)
    assert bool(block.attn.qkv.up.abs().sum() > 0)
