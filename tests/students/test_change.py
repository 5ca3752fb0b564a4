"""What holds for every student change."""

import dataclasses
import json
from typing import Any

import pytest
import torch

from kdcache.config import as_plain
from kdcache.errors import ModelError, UsageError
from kdcache.students import CHANGES, load_change
from kdcache.students.change import Change, Merged, Unchanged, trunk_of
from kdcache.students.lift import LiftChange
from kdcache.students.student import StudentSpec, build_student, merge_student, read_spec, rebuild_student

# One that is not the default, for each name.
EXAMPLES: dict[str, dict[str, Any]] = {
    "none": {},
    "lift": {"width": 24, "init": "released"},
    "widelast": {"width": 24, "schedule": "fixed_step"},
    "weight-copy": {"every": 2, "adapters": "lora", "rank": 3},
    "low-rank": {"rank": 5},
}
KWARGS = {"patch_size": 4, "embed_dim": 12, "depth": 3, "num_heads": 3}


def example(name: str) -> Change:
    return load_change(name)(**EXAMPLES[name])


def spec_of(change: Change) -> StudentSpec:
    return StudentSpec(name="vit_tiny_patch16_224", kwargs=KWARGS, num_classes=5, image_size=16, change=change)


@pytest.mark.parametrize("name", CHANGES)
def test_a_student_is_built_again_from_json(name: str) -> None:
    spec = spec_of(example(name))
    assert spec.change.name == name
    student = build_student(spec, weights="random").eval()
    read = read_spec(json.loads(json.dumps(as_plain(spec))))
    assert read == spec
    again = rebuild_student(read).eval()
    again.load_state_dict(student.state_dict())
    images = torch.randn(2, 3, 16, 16)
    with torch.inference_mode():
        torch.testing.assert_close(again(images), student(images), rtol=0, atol=0)


@pytest.mark.parametrize("name", CHANGES)
def test_a_merged_student_gives_the_same_and_is_built_again_too(name: str) -> None:
    student = build_student(spec_of(example(name)), weights="random").eval()
    images = torch.randn(2, 3, 16, 16)
    with torch.inference_mode():
        expected = student(images)
        merged, spec = merge_student(student, spec_of(example(name)))
        again = rebuild_student(spec).eval()
        again.load_state_dict(merged.state_dict())
        torch.testing.assert_close(again(images), expected)


@pytest.mark.parametrize("name", CHANGES)
def test_changes_are_frozen_data(name: str) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        example(name).name = "other"


def test_an_open_width_is_filled_in_once() -> None:
    assert LiftChange().with_width(lambda: 24) == LiftChange(width=24)
    assert LiftChange(width=8).with_width(lambda: 1 // 0) == LiftChange(width=8)
    assert Unchanged().with_width(lambda: 1 // 0) == Unchanged()
    with pytest.raises(ModelError, match="lift has no width yet"):
        _ = LiftChange().known_width


def test_nothing_is_left_out_of_an_unchanged_model() -> None:
    model = torch.nn.Linear(2, 2)
    assert Unchanged().merge(model) == Merged(model, {}, Unchanged())
    assert trunk_of(model) is model


def test_released_settings_decay_embeddings() -> None:
    for init, kept in (
        ("timm", {"model.trunk.pos_embed", "model.trunk.cls_token", "model.trunk.reg_token"}),
        ("released", set()),
    ):
        student = build_student(spec_of(LiftChange(width=24, init=init)))
        assert {name for name in student.no_weight_decay() if "dist" not in name} == kept


def test_names_that_there_are_not() -> None:
    with pytest.raises(UsageError, match=r"student change 'wide'; did you mean widelast\? There are none, lift"):
        load_change("wide")
