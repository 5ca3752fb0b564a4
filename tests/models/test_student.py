import pytest
import torch

from kdcache.errors import ModelError
from kdcache.models import StudentSpec, build_student, count_parameters
from kdcache.models.student import student_grid

SMALL = {"patch_size": 4, "embed_dim": 12, "depth": 2, "num_heads": 3}


def spec(**changes: object) -> StudentSpec:
    settings = {"name": "vit_tiny_patch16_224", "kwargs": SMALL, "num_classes": 5, "image_size": 16}
    return StudentSpec(**{**settings, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "channels"),
    [
        ({}, None),
        ({"block": 0}, 12),
        ({"block": -1}, 12),
        ({"change": "lift", "width": 24}, 24),
        ({"change": "widelast", "width": 24}, 24),
    ],
)
def test_students_give_logits_and_tokens(changes: dict[str, object], channels: int | None) -> None:
    student = build_student(spec(**changes)).eval()
    images = torch.randn(2, 3, 16, 16)
    with torch.inference_mode():
        logits, tokens = student.forward_features(images)
        torch.testing.assert_close(student(images), logits)
    assert logits.shape == (2, 5)
    assert (tokens is None) if channels is None else (tokens is not None and tokens.shape == (2, 16, channels))


def test_published_sizes() -> None:
    full = {"name": "deit_tiny_patch16_224", "kwargs": {}, "num_classes": 1000, "image_size": 224}
    assert count_parameters(build_student(spec(**full))) == 5_717_416
    wide = spec(**{**full, "kwargs": {"embed_dim": 219}})
    assert count_parameters(build_student(wide)) == 7_372_759


@pytest.mark.parametrize("change", ["lift", "widelast"])
def test_published_shapes(change: str) -> None:
    student = build_student(
        spec(name="deit_tiny_patch16_224", kwargs={}, num_classes=1000, image_size=224, change=change, width=384)
    )
    _, tokens = student.forward_features(torch.randn(1, 3, 224, 224))
    assert tokens is not None
    assert tokens.shape == (1, 196, 384)


def test_grids() -> None:
    for changes in ({}, {"change": "lift", "width": 24}, {"change": "widelast", "width": 24}):
        made = spec(**changes)
        assert student_grid(build_student(made), made) == (4, 4)


def test_any_architecture_can_be_a_plain_student() -> None:
    student = build_student(spec(name="resnet18", kwargs={}, block=-1, image_size=64))
    logits, tokens = student.forward_features(torch.randn(2, 3, 64, 64))
    assert logits.shape == (2, 5)
    assert tokens is not None
    assert tokens.shape == (2, 4, 512)
    assert student.no_weight_decay() == set()


def test_distilled_students_train_on_the_mean_of_their_heads() -> None:
    student = build_student(spec(name="deit_tiny_distilled_patch16_224", kwargs={}, image_size=32))
    student.model.set_distilled_training(True)  # type: ignore[operator]
    assert student.train()(torch.randn(2, 3, 32, 32)).shape == (2, 5)


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="lift needs the teacher's width, got 0"):
        spec(change="lift")
    with pytest.raises(ValueError, match="num_classes must be at least 1"):
        spec(num_classes=0)
    with pytest.raises(ModelError, match="no model 'deit_tinny"):
        build_student(spec(name="deit_tinny_patch16_224"))
