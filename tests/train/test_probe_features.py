from pathlib import Path
from typing import Any

import pytest
import torch

from kdcache.errors import UsageError
from kdcache.images import open_source
from kdcache.students.change import Change, Unchanged
from kdcache.students.lift import LiftChange
from kdcache.students.student import Student, StudentSpec, build_student
from kdcache.train.probe_features import Features, images_digest, kept_features, student_features, token_feature
from kdcache.views import EvalView
from tests.conftest import STUDENT_KWARGS, flip_bit

VIEW = EvalView(size=16, crop_pct=1.0, interpolation="bicubic", mean=(0.5,) * 3, std=(0.5,) * 3)
CPU = torch.device("cpu")
IMAGES = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def student(
    kwargs: dict[str, Any], name: str = "vit_tiny_patch16_224", *, change: Change | None = None, size: int = 16
) -> Student:
    torch.manual_seed(0)
    change = change or Unchanged()
    return build_student(StudentSpec(name=name, num_classes=10, image_size=size, kwargs=kwargs, change=change)).eval()


@torch.no_grad()
def test_tokens_of_a_vit_come_after_its_norm() -> None:
    vit = student(STUDENT_KWARGS)
    network = vit.network
    raw = network.forward_intermediates(IMAGES, indices=1, return_prefix_tokens=True, intermediates_only=True)
    patches, prefix = raw[0]
    tokens = network.norm(torch.cat([prefix, patches.flatten(2).mT], dim=1))
    torch.testing.assert_close(token_feature(vit, IMAGES, "class"), tokens[:, 0])
    torch.testing.assert_close(token_feature(vit, IMAGES, "mean"), tokens[:, 1:].mean(1))
    # The classifier of this student reads the class token: its logits are a linear map of the feature.
    torch.testing.assert_close(network.head(token_feature(vit, IMAGES, "class")), vit(IMAGES))


@pytest.mark.parametrize(
    ("name", "kwargs", "width"),
    [
        ("resnet18", {}, 512),
        ("convnext_atto", {}, 320),
        (
            "swin_tiny_patch4_window7_224",
            {"window_size": 2, "embed_dim": 24, "depths": [1, 1], "num_heads": [2, 2]},
            48,
        ),
    ],
)
@torch.no_grad()
def test_students_without_a_class_token_have_a_mean(name: str, kwargs: dict[str, Any], width: int) -> None:
    model = student(kwargs, name, size=64)
    images = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    found = token_feature(model, images, "mean")
    assert found.shape == (3, width)
    # Without layers between map and pooling, timm's own pooled feature is this mean.
    if name != "convnext_atto":
        pooled = model.network.forward_head(model.network.forward_features(images), pre_logits=True)
        torch.testing.assert_close(found, pooled)
    with pytest.raises(UsageError, match="has no class token; choose mean"):
        token_feature(model, images, "class")


@torch.no_grad()
def test_a_lifted_student_is_read_where_its_classifier_reads() -> None:
    lifted = student(STUDENT_KWARGS, change=LiftChange(width=24))
    found = token_feature(lifted, IMAGES, "mean")
    assert found.shape == (3, 24)
    torch.testing.assert_close(lifted.model.head(found), lifted(IMAGES))
    with pytest.raises(UsageError, match="not by a class token; choose mean"):
        token_feature(lifted, IMAGES, "class")


@torch.no_grad()
def test_the_class_token_of_cait_is_not_in_its_blocks() -> None:
    kwargs = {"patch_size": 4, "embed_dim": 12, "depth": 1, "num_heads": 3}
    cait = student(kwargs, "cait_xxs24_224")
    torch.testing.assert_close(cait.network.head(token_feature(cait, IMAGES, "class")), cait(IMAGES))


def test_undecodable_images_are_left_out(photos: Path) -> None:
    bad = next(photos.rglob("*.png"))
    bad.write_bytes(b"no image")
    source = open_source(str(photos))
    found = student_features(student(STUDENT_KWARGS), source, VIEW, "mean", batch_size=4, device=CPU)
    assert (len(found.values), len(found.labels), found.num_bad) == (5, 5, 1)


def test_features_are_kept_until_a_fact_changes(tmp_path: Path) -> None:
    calls: list[int] = []

    def compute() -> Features:
        calls.append(1)
        return Features(torch.arange(6.0).reshape(3, 2), torch.tensor([0, 1, 1]), 2)

    for facts, count in (({"weights": "a"}, 1), ({"weights": "a"}, 1), ({"weights": "b"}, 2), ({"weights": "a"}, 2)):
        found = kept_features(tmp_path, facts, compute)
        assert torch.equal(found.values, torch.arange(6.0).reshape(3, 2))
        assert (found.labels.tolist(), found.num_bad, len(calls)) == ([0, 1, 1], 2, count)


@pytest.mark.parametrize("damage", ["bit", "cut"])
def test_damaged_features_are_computed_again(tmp_path: Path, damage: str) -> None:
    whole = Features(torch.ones(3, 2), torch.tensor([0, 1, 1]), 0)
    kept_features(tmp_path, {}, lambda: whole)
    [path] = (tmp_path / "probe").iterdir()
    if damage == "bit":
        flip_bit(path, path.stat().st_size - 3)
    else:
        path.write_bytes(path.read_bytes()[:-1])
    calls: list[int] = []
    kept_features(tmp_path, {}, lambda: (calls.append(1), whole)[1])
    assert calls == [1]
    assert torch.equal(kept_features(tmp_path, {}, lambda: pytest.fail("whole again")).values, whole.values)


def test_images_are_told_apart(photos: Path) -> None:
    before = images_digest(open_source(str(photos)))
    assert images_digest(open_source(str(photos))) == before
    next(photos.rglob("*.png")).write_bytes(b"other")
    assert images_digest(open_source(str(photos))) != before
