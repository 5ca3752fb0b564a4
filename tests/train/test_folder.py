import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from kdcache.errors import RunMismatchError
from kdcache.methods.lift import lift
from kdcache.students.student import StudentSpec, build_student
from kdcache.students.wide_last import WideLastChange
from kdcache.train.folder import (
    WEIGHTS,
    begin_run,
    load_student,
    lock_run,
    read_summary,
    save_student_facts,
    save_weights,
    write_summary,
)
from kdcache.views import EvalView
from tests.train.support import tiny_run

SPEC = StudentSpec(
    name="vit_tiny_patch16_224", num_classes=5, image_size=16, change=WideLastChange(width=24),
    kwargs={"patch_size": 4, "embed_dim": 12, "depth": 2, "num_heads": 3},
)  # fmt: skip
VIEW = EvalView(size=16, crop_pct=0.9, interpolation="bicubic", mean=(0.5,) * 3, std=(0.5,) * 3)


def test_config_versions_and_commit_are_recorded_before_the_first_step(tmp_path: Path) -> None:
    begin_run(tmp_path / "run", tiny_run(), cache_digest="a" * 64, world_size=1)
    record = json.loads((tmp_path / "run" / "config.json").read_bytes())
    assert record["cache"] == "a" * 64
    assert record["config"]["method"]["name"] == "lift"
    assert set(record["versions"]) == {"kdcache", "numpy", "timm", "torch"}
    assert record["git_commit"] is None or len(record["git_commit"]) == 40


def test_the_same_run_goes_on_and_another_is_refused(tmp_path: Path) -> None:
    begin_run(tmp_path, tiny_run(), cache_digest="a" * 64, world_size=1)
    begin_run(tmp_path, tiny_run(), cache_digest="a" * 64, world_size=2)
    with pytest.raises(RunMismatchError, match=r"epochs: the run has 2, this command 3(.|\n)*Nothing was changed"):
        begin_run(tmp_path, tiny_run(epochs=3), cache_digest="a" * 64, world_size=1)
    with pytest.raises(RunMismatchError, match=r"optimizer.lr: the run has None, this command 0.1"):
        begin_run(tmp_path, tiny_run("optimizer.lr=0.1"), cache_digest="a" * 64, world_size=1)
    other = replace(tiny_run(), method=lift(teacher=("blocks.1/patch",), feature_weight=0.5))
    with pytest.raises(RunMismatchError, match=r"method.terms\[2\].weight: the run has 0.2, this command 0.5"):
        begin_run(tmp_path, other, cache_digest="a" * 64, world_size=1)
    with pytest.raises(RunMismatchError, match=r"cache: the run has aaaaaaaaaaaa…, this command bbbbbbbbbbbb…"):
        begin_run(tmp_path, tiny_run(), cache_digest="b" * 64, world_size=1)


def test_what_decides_no_number_may_differ(tmp_path: Path) -> None:
    """Each job of a queue unpacks the images elsewhere, on another machine; the images themselves are compared."""
    same: dict[str, Any] = {"cache_digest": "a" * 64, "world_size": 1}
    begin_run(tmp_path, tiny_run("eval.data=/scratch/1/val", "device=cpu"), **same, evaluation_digest="c" * 64)
    moved = tiny_run("eval.data=/scratch/2/val", "data.source=/scratch/2", "log_every=7", "data.num_threads=3")
    begin_run(tmp_path, moved, **same, evaluation_digest="c" * 64)
    # A finished run evaluates nothing more, and needs no images.
    begin_run(tmp_path, moved, **same, evaluation_digest=None)
    with pytest.raises(RunMismatchError, match=r"evaluation: the run has cccccccccccc…, this command dddddddddddd…"):
        begin_run(tmp_path, moved, **same, evaluation_digest="d" * 64)
    with pytest.raises(RunMismatchError, match=r"device: the run has cpu, this command cuda"):
        begin_run(tmp_path, moved, **same, evaluation_digest="c" * 64, device_type="cuda")
    with pytest.raises(RunMismatchError, match=r"eval\.every_epochs: the run has 1, this command 2"):
        begin_run(tmp_path, tiny_run("eval.every_epochs=2"), **same)


def test_a_student_comes_back_without_cache_or_method(tmp_path: Path) -> None:
    student = build_student(SPEC).eval()
    save_student_facts(tmp_path, SPEC, VIEW, ["a", "b"])
    save_weights(tmp_path / WEIGHTS, student.model)
    again, spec, view, names = load_student(tmp_path)
    assert (spec, view, names) == (SPEC, VIEW, ["a", "b"])
    images = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(again(images), student(images), rtol=0, atol=0)
    assert not again.training


def test_a_plain_students_weights_are_timms_own(tmp_path: Path) -> None:
    """So that a student can be the next teacher."""
    from kdcache.models import create_timm_model, load_weights

    spec = StudentSpec(name=SPEC.name, num_classes=5, image_size=16, kwargs=SPEC.kwargs)
    save_weights(tmp_path / WEIGHTS, build_student(spec).model)
    load_weights(
        create_timm_model(SPEC.name, kwargs={**SPEC.kwargs, "img_size": 16, "num_classes": 5}), tmp_path / WEIGHTS
    )


@pytest.mark.parametrize("damage", ["nothing", "facts", "weights", "other weights"])
def test_what_is_no_finished_run(tmp_path: Path, damage: str) -> None:
    if damage != "nothing":
        save_student_facts(tmp_path, SPEC, VIEW, [])
        save_weights(tmp_path / WEIGHTS, build_student(SPEC).model)
    if damage == "facts":
        (tmp_path / "student.json").write_bytes(b'{"student":{}}')
    elif damage == "weights":
        (tmp_path / WEIGHTS).write_bytes(b"garbage")
    elif damage == "other weights":
        save_weights(tmp_path / WEIGHTS, torch.nn.Linear(2, 2))
    with pytest.raises(RunMismatchError, match=r"student\.(json|safetensors)"):
        load_student(tmp_path)


def test_summaries(tmp_path: Path) -> None:
    assert read_summary(tmp_path) is None
    write_summary(tmp_path, {"top1": 1.5})
    assert read_summary(tmp_path) == {"top1": 1.5}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("samples/train-000000.tar", "", "holds a cache"),
        ("config.json", '{"architecture": "resnet18"}', "holds a config.json that is no run's"),
        ("config.json", "[1]", "holds a config.json that is no run's"),
        ("summary.json", "{}", "holds a finished run without its config.json"),
    ],
)
def test_a_folder_of_another_kind_is_left_alone(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(text)
    with pytest.raises(RunMismatchError, match=message), lock_run(tmp_path, "job"):
        pass
    assert not (tmp_path / "job").exists()
