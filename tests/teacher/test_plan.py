from pathlib import Path
from typing import Any

import pytest
import torch

from kdcache.cache import BaseFingerprint, GroupFingerprint
from kdcache.cache.manifest import fingerprint_digest
from kdcache.errors import ModelError, TapError, UsageError
from kdcache.images import open_source
from kdcache.models import TimmModel
from kdcache.teacher.model import Teacher
from kdcache.teacher.plan import base_fingerprint, group_fingerprints, plan_columns, plan_recipe
from kdcache.teacher.source_plan import plan_source
from tests.conftest import GROUP, TEACHER, TEACHER_KWARGS, tiny_extract


@pytest.fixture
def teacher() -> Teacher:
    cpu = torch.device("cpu")
    return Teacher(TimmModel(TEACHER, TEACHER_KWARGS), "random", image_size=None, seed=0, device=cpu, precision="auto")


def config(**changes: Any) -> Any:
    return tiny_extract(Path("unused"), **changes)


@pytest.mark.parametrize(("num_classes", "taps"), [(10, ["blocks.1/patch", "head/logits"]), (0, ["blocks.1/patch"])])
def test_default_taps_are_those_that_the_teacher_has(num_classes: int, taps: list[str]) -> None:
    """Self-supervised teachers have no classifier: their pooled feature is kept only where it is asked for."""
    kwargs = {**TEACHER_KWARGS, "num_classes": num_classes}
    cpu = torch.device("cpu")
    made = Teacher(TimmModel(TEACHER, kwargs), "random", image_size=None, seed=0, device=cpu, precision="auto")
    assert [column.tap for column in plan_columns(config(taps=None), made)] == taps


def test_columns_resolve_taps_and_codecs(teacher: Teacher) -> None:
    columns = plan_columns(
        config(codec="int8", taps=("blocks.-1/patch", "blocks.0/patch:fp32", "head/logits")), teacher
    )
    assert [(each.name, each.tap, each.codec, each.shape, each.grid) for each in columns] == [
        ("blocks-1-patch-int8", "blocks.1/patch", "int8", [16, 24], [4, 4]),
        ("blocks-0-patch-fp32", "blocks.0/patch", "fp32", [16, 24], [4, 4]),
        ("head-logits-fp16", "head/logits", "fp16", [10], []),
    ]
    assert all(each.stride_bytes % 512 == 0 for each in columns)


@pytest.mark.parametrize(
    ("taps", "error", "message"),
    [
        (("blocks.9/patch",), TapError, "has 2 blocks"),
        (("blocks.1",), TapError, "is not a tap"),
        (("head/logits:int8",), UsageError, "int8 stores features only"),
        (("blocks.1/patch:topk=3",), UsageError, "topk stores logits only"),
        (("head/embedding:topk=3",), UsageError, "topk stores logits only"),
        (("change/tokens",), TapError, "VisionTransformer has no change/tokens: only a student that a method"),
        (("head/logits:topk=11",), UsageError, "at least 11 classes"),
        (("blocks.1/patch:fp7",), UsageError, "unknown codec 'fp7'"),
        (("blocks.1/patch", "blocks.-1/patch"), UsageError, "asked for twice"),
    ],
)
def test_what_cannot_be_cached(teacher: Teacher, taps: tuple[str, ...], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        plan_columns(config(taps=taps), teacher)


def test_an_embedding_is_one_vector_of_any_dense_codec(teacher: Teacher) -> None:
    taps = ("head/embedding", "head/embedding:int8", "head/embedding:bf16", "head/embedding:fp32")
    columns = plan_columns(config(codec="int8", taps=taps), teacher)
    assert [(each.name, each.kind, each.shape, each.grid) for each in columns] == [
        (f"head-embedding-{codec}", "embedding", [24], []) for codec in ("fp16", "int8", "bf16", "fp32")
    ]
    assert columns[1].layout().payload_bytes == 24 + 4


def test_the_eval_recipe_is_the_teachers(teacher: Teacher) -> None:
    recipe = plan_recipe(config(view_recipe="eval", views=1), teacher)
    assert (recipe.size, recipe.crop_pct, recipe.squash) == (16, 0.9, False)
    changed = plan_recipe(config(view_recipe="eval", views=1, view_params={"crop_pct": 1.0}), teacher)
    assert changed.crop_pct == 1.0
    teacher.data_config["crop_mode"] = "border"
    with pytest.raises(ModelError, match="crop mode 'border'"):
        plan_recipe(config(view_recipe="eval", views=1), teacher)


@pytest.mark.parametrize("params", [{"scal": [0.5, 1]}, {"scale": 0.5}, {"scale": [0.9, 0.5]}, {"flip": "often"}])
def test_wrong_view_parameters(teacher: Teacher, params: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="view parameters"):
        plan_recipe(config(view_params=params), teacher)


def test_parameters_of_another_recipe_are_refused(teacher: Teacher) -> None:
    for name, params in (("rrc-flip", {"erase": 0.5}), ("deit", {"crop_pct": 0.9}), ("eval", {"flip": 0})):
        views = 1 if name == "eval" else 2
        with pytest.raises(UsageError, match=f"do not exist for recipe {name}; there are"):
            plan_recipe(config(view_recipe=name, views=views, view_params=params), teacher)


def test_deit_is_bicubic_whatever_the_teacher_is(teacher: Teacher) -> None:
    teacher.data_config["interpolation"] = "bilinear"
    assert made(teacher)[0].views.interpolation == "bilinear"
    deit = made(teacher, view_recipe="deit", view_params={"erase": 0.5})[0].views
    assert (deit.interpolation, deit.recipe) == ("bicubic", "deit")
    assert deit.params == {
        "scale": [0.08, 1.0], "ratio": [0.75, 4 / 3], "flip": 0.5, "operation": 0.5, "magnitude": 9.0,
        "magnitude_std": 0.5, "erase": 0.5, "erase_area": [0.02, 1 / 3], "erase_ratio": [0.3, 1 / 0.3],
    }  # fmt: skip
    assert made(teacher, view_recipe="deit", interpolation="nearest")[0].views.interpolation == "nearest"
    with pytest.raises(UsageError, match="recipe deit must be one of bicubic, bilinear, nearest, got 'lanczos'"):
        made(teacher, view_recipe="deit", interpolation="lanczos")


def made(teacher: Teacher, **changes: Any) -> tuple[BaseFingerprint, dict[str, GroupFingerprint]]:
    asked = config(**changes)
    source = plan_source(open_source("digits:test"), asked)
    base = base_fingerprint(asked, teacher, source, plan_recipe(asked, teacher))
    return base, group_fingerprints(asked, base, teacher)


def test_a_default_that_is_typed_is_the_default(teacher: Teacher) -> None:
    """Words of a command line, and those that come from another process, are equal to a default and not the same."""
    typed, _ = made(teacher, exif="".join(["ign", "ore"]))
    assert fingerprint_digest(typed) == fingerprint_digest(made(teacher)[0])


def test_what_decides_no_bytes_changes_no_fingerprint(teacher: Teacher) -> None:
    for same in ({"threads": 7}, {"max_bad": 0.5}, {"check_space": False}, {"image_timeout_s": 1.0}):
        assert made(teacher, **same) == made(teacher)


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1}, {"views": 3}, {"limit": None, "per_class": "2"},
        {"shard_samples": 9}, {"limit": 19}, {"order": "source"}, {"images": "reference"},
        {"split": "val"}, {"view_params": {"flip": 0.1}}, {"interpolation": "bilinear"}, {"pixels": "jpeg"},
    ],
    ids=str,
)  # fmt: skip
def test_what_decides_bytes_of_the_base_changes_both(teacher: Teacher, changes: dict[str, Any]) -> None:
    before, after = made(teacher), made(teacher, **changes)
    assert before[0] != after[0]
    assert before[1][GROUP] != after[1][GROUP]


@pytest.mark.parametrize("changes", [{"batch_size": 7}, {"statistics": "light"}, {"taps": ("head/logits",)}], ids=str)
def test_what_decides_bytes_of_a_group_leaves_the_base(teacher: Teacher, changes: dict[str, Any]) -> None:
    before, after = made(teacher), made(teacher, **changes)
    assert before[0] == after[0]
    assert before[1][GROUP] != after[1][GROUP]


def test_what_belongs_to_the_teacher_belongs_to_its_group(teacher: Teacher) -> None:
    base, groups = made(teacher)
    assert "torch" not in base.versions
    assert groups[GROUP].versions["torch"] == torch.__version__
    assert groups[GROUP].teacher == teacher.facts
    assert groups[GROUP].base == fingerprint_digest(base)


def test_stored_pixels_are_a_group_without_a_teacher(teacher: Teacher) -> None:
    base, groups = made(teacher, pixels="raw")
    assert list(groups) == [GROUP, "pixels"]
    assert (groups["pixels"].teacher, groups["pixels"].columns[0].shape) == (None, [16, 16, 3])
    assert list(group_fingerprints(config(pixels="raw"), base, None)) == ["pixels"]
    assert base == made(teacher)[0], "raw pixels can be added later, so the base must not know them"
    base, groups = made(teacher, pixels="jpeg:80")
    assert (base.views.jpeg_quality, groups["pixels"].columns[0].params) == (80, {"quality": 80})


@pytest.mark.parametrize("changes", [{"split": "a/b"}, {"split": "index"}, {"interpolation": "random"}])
def test_settings_that_cannot_be(teacher: Teacher, changes: dict[str, Any]) -> None:
    asked = config(**changes)
    source = plan_source(open_source("digits:test"), asked)
    with pytest.raises(UsageError, match=next(iter(changes))):
        base_fingerprint(asked, teacher, source, plan_recipe(config(), teacher))
