"""Folders that only look like classes, and classes that only look like splits."""

from pathlib import Path

import pytest

from kdcache.errors import Remedy, SourceError
from kdcache.images.classes import ClassRule
from kdcache.images.folder import FolderSource
from tests.images.support import tree


@pytest.mark.parametrize(
    ("paths", "meant"),
    [
        (["train/cat/1.jpg", "train/dog/2.jpg", "val/cat/3.jpg", "val/dog/4.jpg"], "train"),
        (["Training/cat/1.jpg", "Testing/cat/2.jpg"], "Training"),
        (["train2017/1.jpg", "val2017/2.jpg", "annotations/a.json"], "train2017"),
        (["test/cat/1.jpg", "test/dog/1.jpg"], "test"),
        (["images/cat/1.jpg", "images/dog/1.jpg", "README.md"], "images"),
        (["data/train/cat/1.jpg", "data/train/dog/1.jpg", "data/val/cat/1.jpg", "data/val/dog/1.jpg"], "data/train"),
        (["seg_train/seg_train/sea/1.jpg", "seg_train/seg_train/ice/2.jpg", "seg_test/seg_test/sea/1.jpg",
          "seg_pred/seg_pred/1.jpg"], "seg_train/seg_train"),
        (["training_set/cats/1.jpg", "training_set/dogs/1.jpg", "test_set/cats/1.jpg"], "training_set"),
        (["train.X1/n01/1.jpg", "train.X1/n02/1.jpg", "train.X2/n03/1.jpg", "val.X/n01/1.jpg"], "train.X1"),
        (["train/1.jpg", "test/2.jpg", "unlabeled/3.jpg"], "train"),
        (["train/a/1.jpg", "val/a/2.jpg", "docs/figure.png"], "train"),
        (["TrainImages/a/1.jpg", "ValImages/a/2.jpg"], "TrainImages"),
        (["north/oak/1.jpg", "north/elm/2.jpg", "south/oak/3.jpg", "south/elm/4.jpg"], "north"),
    ],
    ids=["train and val", "other words", "coco", "one split", "one folder around", "both", "a word in front",
         "a word behind", "parts", "unlabelled too", "something beside", "two words in one", "the same classes"],
)  # fmt: skip
def test_splits_are_no_classes(tmp_path: Path, paths: list[str], meant: str) -> None:
    with pytest.raises(SourceError, match=rf"pass {tmp_path / meant}$") as caught:
        FolderSource(tree(tmp_path, *paths))
    assert caught.value.remedy is Remedy.NAME_FOLDERS
    FolderSource(tmp_path / meant)


def test_classes_that_look_like_splits_can_be_named(tmp_path: Path) -> None:
    root = tree(tmp_path / "d", "train/a/1.jpg", "test/a/2.jpg")
    (tmp_path / "map").write_text("test\ntrain\n")
    assert FolderSource(root, ClassRule(class_map=tmp_path / "map")).class_names == ["test", "train"]
    with pytest.raises(SourceError, match="are the splits test, train, not classes"):
        FolderSource(root, ClassRule(names=("cat", "dog")))


@pytest.mark.parametrize(
    "paths",
    [
        ["train/1.jpg", "bus/2.jpg"],
        ["bullet train/1.jpg", "test tube/2.jpg", "boat/3.jpg"],
        ["cat/a/1.jpg", "cat/2.jpg", "dog/1.jpg"],
        ["cat/a/1.jpg", "dog/a/2.jpg"],
        ["pets/cat/1.jpg", "pets/dog/2.jpg", "cars/audi/1.jpg", "cars/fiat/2.jpg"],
        ["extra/1.jpg", "unlabeled/2.jpg"],
    ],
    ids=["a vehicle", "words", "a folder within", "folders within", "groups of classes", "no split at all"],
)
def test_classes_that_only_look_like_splits(tmp_path: Path, paths: list[str]) -> None:
    assert len(FolderSource(tree(tmp_path, *paths)).class_names) == len({path.split("/")[0] for path in paths})
