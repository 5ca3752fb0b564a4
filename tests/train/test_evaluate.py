from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from kdcache.distributed import WorkerEnv
from kdcache.errors import Remedy, SourceError
from kdcache.images import open_source
from kdcache.images.classes import ClassRule
from kdcache.images.rules import SourceRules
from kdcache.train.evaluate import Accuracy, check_classes, evaluate, open_for_student
from kdcache.views import EvalView

VIEW = EvalView(size=16, crop_pct=1.0, interpolation="bicubic", mean=(0.5,) * 3, std=(0.5,) * 3)
ALONE = WorkerEnv(0, 1, 0, "job")


class Fixed(nn.Module):
    """Ranks the classes in the same order for every image."""

    def __init__(self, order: list[int]) -> None:
        super().__init__()
        scores = torch.zeros(len(order))
        scores[order] = torch.arange(len(order), 0, -1).float()
        self.register_buffer("scores", scores)

    def forward(self, images: Tensor) -> Tensor:
        return self.scores.expand(len(images), -1)


def judged(student: nn.Module, data: str, num_classes: int, batch_size: int = 64, env: WorkerEnv = ALONE) -> Accuracy:
    return evaluate(
        student, open_source(data), VIEW, num_classes=num_classes, batch_size=batch_size,
        device=torch.device("cpu"), env=env,
    )  # fmt: skip


@pytest.mark.parametrize("batch_size", [1, 7, 360, 1000])
def test_shares_are_counted_over_all_images(batch_size: int) -> None:
    source = open_source("digits:test")
    share = [100 * sum(image.label == digit for image in source.images) / 360 for digit in range(10)]
    found = judged(Fixed([3, 1, 4, 5, 9, 2, 6, 0, 7, 8]), "digits:test", 10, batch_size)
    assert found.num_images == 360
    assert found.top1 == pytest.approx(share[3])
    assert found.top5 == pytest.approx(share[3] + share[1] + share[4] + share[5] + share[9])


def test_fewer_than_five_classes(photos: Path) -> None:
    found = judged(Fixed([1, 0]), str(photos), 2)
    assert (found.top1, found.top5) == (50.0, 100.0)


def test_undecodable_images_count_as_wrong(photos: Path) -> None:
    (photos / "dog" / "0.jpg").write_bytes(b"")
    found = judged(Fixed([1, 0]), str(photos), 2, batch_size=1)
    assert (found.num_images, found.num_bad) == (6, 1)
    assert found.top1 == pytest.approx(100 * 2 / 6)


def test_the_mode_of_the_student_is_left_alone(photos: Path) -> None:
    student = Fixed([1, 0]).train()
    judged(student, str(photos), 2)
    assert student.training


def test_labels_the_student_cannot_know(photos: Path) -> None:
    with pytest.raises(SourceError, match="label 9 occurs, the student knows 5 classes"):
        judged(Fixed([0, 1, 2, 3, 4]), "digits:test", 5)


def test_folders_of_other_classes_than_a_nameless_student_has(photos: Path, tmp_path: Path) -> None:
    """A student of a teacher's ten classes knows nothing of class 0 of two folders."""
    with pytest.raises(SourceError, match=r"have 2 classes \(cat, dog\), the student has 10 without names") as caught:
        open_for_student(str(photos), [], 10)
    assert caught.value.remedy is Remedy.NAME_STUDENT_CLASSES
    (tmp_path / "map.txt").write_text("\n".join(["a", "b", "c", "dog", "e", "f", "g", "cat", "i", "j"]))
    rules = SourceRules(classes=ClassRule(class_map=tmp_path / "map.txt"))
    assert {image.label for image in open_for_student(str(photos), [], 10, rules).images} == {3, 7}
    assert open_for_student(str(photos), [], 2).num_classes == 2
    assert open_for_student(str(photos), ["ant", "cat", "dog"], 10).num_classes == 3, "told to have the same classes"


def test_images_without_labels(tmp_path: Path) -> None:
    from tests.images.test_tars import make_tar

    with pytest.raises(SourceError, match="no labels, so there is no accuracy"):
        judged(Fixed([0, 1]), str(make_tar(tmp_path / "t.tar", {"a.jpg": b"x"})), 2)
    some = make_tar(tmp_path / "s.tar", {"a.jpg": b"x", "a.cls": b"0", "b.jpg": b"x", "c.jpg": b"x", "c.cls": b"1"})
    with pytest.raises(SourceError, match=r"1 of 3 images have no label, the first is 'b'"):
        judged(Fixed([0, 1]), str(some), 2)


def test_class_folders_must_be_the_same(photos: Path) -> None:
    check_classes(open_source(str(photos)), ["cat", "dog"])
    check_classes(open_source(str(photos)), [])
    check_classes(None, ["cat"])
    with pytest.raises(SourceError, match="class folders must have the same names"):
        check_classes(open_source(str(photos)), ["cat", "horse"])
