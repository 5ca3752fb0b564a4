from pathlib import Path

import pytest
import safetensors.torch
import torch

from kdcache.errors import Remedy, RunMismatchError
from kdcache.models import weights_sha256
from kdcache.students.student import StudentSpec, build_student
from kdcache.students.wide_last import WideLastChange
from kdcache.train.folder import (
    WEIGHTS,
    load_student,
    lock_run,
    read_finished,
    read_summary,
    save_student_facts,
    save_weights,
    write_summary,
)
from kdcache.views import EvalView

SPEC = StudentSpec(
    name="vit_tiny_patch16_224", num_classes=5, image_size=16, change=WideLastChange(width=24),
    kwargs={"patch_size": 4, "embed_dim": 12, "depth": 2, "num_heads": 3},
)  # fmt: skip
VIEW = EvalView(size=16, crop_pct=0.9, interpolation="bicubic", mean=(0.5,) * 3, std=(0.5,) * 3)


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


@pytest.mark.slow
def test_no_flipped_bit_changes_a_student_unnoticed(tmp_path: Path) -> None:
    saved = build_student(SPEC).model
    save_student_facts(tmp_path, SPEC, VIEW, [])
    save_weights(tmp_path / WEIGHTS, saved)
    whole = (tmp_path / WEIGHTS).read_bytes()
    wanted, refused = weights_sha256(saved), 0
    header = 8 + int.from_bytes(whole[:8], "little")
    positions = [*range(0, header, 37), *range(header, len(whole), len(whole) // 40)]
    for position in positions:
        flipped = bytearray(whole)
        flipped[position] ^= 1 << position % 8
        (tmp_path / WEIGHTS).unlink()
        (tmp_path / WEIGHTS).write_bytes(bytes(flipped))
        try:
            found = load_student(tmp_path)[0].model
        except RunMismatchError:
            refused += 1
        else:
            assert weights_sha256(found) == wanted, position
    assert refused > 0.9 * len(positions), "a few lie in the name of the file's format"


def test_an_edit_of_what_a_student_is_made_of_is_noticed(tmp_path: Path) -> None:
    """Another order of classes or another mean would build, run, and be wrong."""
    save_student_facts(tmp_path, SPEC, VIEW, ["cat", "dog"])
    save_weights(tmp_path / WEIGHTS, build_student(SPEC).model)
    path = tmp_path / "student.json"
    whole = path.read_text()
    for old, new in (('"cat","dog"', '"dog","cat"'), ("0.5", "0.4"), ('"crop_pct":0.9', '"crop_pct":1.0')):
        assert old in whole
        path.unlink()
        path.write_text(whole.replace(old, new, 1))
        with pytest.raises(RunMismatchError, match=r"student.json: damaged or edited .*restore it"):
            load_student(tmp_path)


def test_weights_without_a_hash_are_not_those_of_a_run(tmp_path: Path) -> None:
    save_student_facts(tmp_path, SPEC, VIEW, [])
    safetensors.torch.save_file(build_student(SPEC).model.state_dict(), tmp_path / WEIGHTS)
    with pytest.raises(RunMismatchError, match="the sha256 of its tensors is not the one in it") as caught:
        load_student(tmp_path)
    assert caught.value.remedy is Remedy.OTHER_WEIGHTS


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


@pytest.mark.parametrize("damaged", [b'{"epocis":2}', b"[1]", b'{"epochs":"2"}'])
def test_a_damaged_summary_is_named(tmp_path: Path, damaged: bytes) -> None:
    (tmp_path / "summary.json").write_bytes(damaged)
    with pytest.raises(RunMismatchError, match=r"summary\.json: damaged"):
        read_finished(tmp_path, 2)
