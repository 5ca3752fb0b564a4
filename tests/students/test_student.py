import pytest
import timm
import torch

from kdcache.errors import ModelError, TapError
from kdcache.models import Tap, count_parameters
from kdcache.students import load_change
from kdcache.students.lift import LiftChange
from kdcache.students.student import StudentSpec, build_student, tap_grid
from kdcache.students.wide_last import WideLastChange

SMALL = {"patch_size": 4, "embed_dim": 12, "depth": 2, "num_heads": 3}


def spec(**changes: object) -> StudentSpec:
    settings = {"name": "vit_tiny_patch16_224", "kwargs": SMALL, "num_classes": 5, "image_size": 16}
    return StudentSpec(**{**settings, **changes})


@pytest.mark.parametrize(
    ("changes", "taps", "read", "channels"),
    [
        ({}, [], [], []),
        ({}, [Tap("patch", 0)], ["blocks.0/patch"], [12]),
        ({}, [Tap("patch")], ["blocks.1/patch"], [12]),
        ({}, [Tap("prefix"), Tap("patch", -2)], ["blocks.1/prefix", "blocks.0/patch"], [12, 12]),
        ({"change": LiftChange(width=24)}, [Tap("patch")], ["change/tokens"], [24]),
        (
            {"change": LiftChange(width=24)},
            [Tap("patch", -1), Tap("change")],
            ["blocks.1/patch", "change/tokens"],
            [12, 24],
        ),
        ({"change": LiftChange(width=24)}, [Tap("prefix", 0)], ["blocks.0/prefix"], [12]),
        ({"change": WideLastChange(width=24)}, [Tap("patch")], ["blocks.1/patch"], [24]),
    ],
)
def test_students_give_logits_and_tokens(
    changes: dict[str, object], taps: list[Tap], read: list[str], channels: list[int]
) -> None:
    student = build_student(spec(**changes)).eval()
    student.set_taps(taps)
    assert [str(tap) for tap in student.taps] == read
    images = torch.randn(2, 3, 16, 16)
    with torch.inference_mode():
        logits, tokens, _ = student.outputs(images)
        torch.testing.assert_close(student(images), logits)
    assert logits.shape == (2, 5)
    shapes = [(2, 1 if tap.kind == "prefix" else 16, width) for tap, width in zip(taps, channels, strict=True)]
    assert [tuple(each.shape) for each in tokens] == shapes


def test_taps_that_a_student_does_not_have() -> None:
    with pytest.raises(TapError, match="no tokens of a change"):
        build_student(spec()).set_taps([Tap("change")])
    with pytest.raises(TapError, match="a lifted student has no head/embedding; choose patch tokens"):
        build_student(spec(change=LiftChange(width=24))).set_taps([Tap("embedding")])
    with pytest.raises(TapError, match="this model has 2 blocks"):
        build_student(spec()).set_taps([Tap("patch", 5)])


def test_published_sizes() -> None:
    full = {"name": "deit_tiny_patch16_224", "kwargs": {}, "num_classes": 1000, "image_size": 224}
    assert count_parameters(build_student(spec(**full))) == 5_717_416
    wide = spec(**{**full, "kwargs": {"embed_dim": 219}})
    assert count_parameters(build_student(wide)) == 7_372_759


@pytest.mark.parametrize("change", ["lift", "widelast"])
def test_published_shapes(change: str) -> None:
    student = build_student(
        spec(
            name="deit_tiny_patch16_224",
            kwargs={},
            num_classes=1000,
            image_size=224,
            change=load_change(change)(width=384),
        )
    )
    student.set_taps([Tap("patch")])
    (tokens,) = student.outputs(torch.randn(1, 3, 224, 224)).tokens
    assert tokens.shape == (1, 196, 384)


def test_grids() -> None:
    for changes in ({}, {"change": LiftChange(width=24)}, {"change": WideLastChange(width=24)}):
        student = build_student(spec(**changes))
        student.set_taps([Tap("patch"), Tap("prefix")])
        assert [tap_grid(student, tap, 16) for tap in student.taps] == [(4, 4), None]


def test_any_architecture_can_be_a_plain_student() -> None:
    student = build_student(spec(name="resnet18", kwargs={}, image_size=64))
    student.set_taps([Tap("patch")])
    logits, (tokens,), _ = student.outputs(torch.randn(2, 3, 64, 64))
    assert logits.shape == (2, 5)
    assert tokens.shape == (2, 4, 512)
    assert student.no_weight_decay() == set()


def test_what_timm_adapts_of_its_own_weights_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda *given, pretrained, **named: create(*given, **named))
    monkeypatch.setattr("kdcache.models.build.hub_problem", lambda: "")
    assert build_student(spec(), weights="hub").note == (
        "timm's classifier is of 1000 classes, and begins fresh for 5; timm's weights are for images of 224 px, and "
        "were resized for those of 16 px"
    )
    any_size = spec(name="resnet10t", kwargs={}, num_classes=1000, image_size=64)
    assert build_student(any_size, weights="hub").note is None
    assert build_student(any_size).note is None


def test_distilled_students_train_on_the_mean_of_their_heads() -> None:
    student = build_student(spec(name="deit_tiny_distilled_patch16_224", kwargs={}, image_size=32))
    student.model.set_distilled_training(True)
    assert student.train()(torch.randn(2, 3, 32, 32)).shape == (2, 5)


def test_mistakes_are_named() -> None:
    with pytest.raises(ModelError, match="lift has no width yet; give one"):
        build_student(spec(change=LiftChange()))
    with pytest.raises(ValueError, match="width must be at least 1, got 0"):
        LiftChange(width=0)
    with pytest.raises(ValueError, match="num_classes must be at least 1"):
        spec(num_classes=0)
    with pytest.raises(ModelError, match="no model 'deit_tinny"):
        build_student(spec(name="deit_tinny_patch16_224"))
