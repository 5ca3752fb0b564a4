import pickle
from pathlib import Path

import pytest

from kdcache.errors import SourceError
from kdcache.images import open_again, open_for_classes, open_source
from kdcache.images.classes import ClassRule
from kdcache.images.rules import SourceRules
from tests.images.support import image_bytes, write_tar


def test_kinds(photos: Path) -> None:
    assert open_source("digits:test").kind == "digits"
    assert len(open_source("digits").images) == 1797
    assert open_source(str(photos)).kind == "folder"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("digits:val", "the parts all, train, test"),
        ("ftp://bucket/x.tar", "not a place that is read"),
        ("pipe:cat x.tar", "commands are not run"),
        ("no/such/folder", "no such file or folder; there is no folder"),
        ("no/such.tar", "no such file or folder"),
        ("/dev/null", "is neither a file nor a folder"),
    ],
)
def test_what_cannot_be_opened_says_what_can(text: str, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        open_source(text)


def test_class_folders_that_a_shell_has_listed(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=f"names 2 paths.*: pass {photos}$"):
        open_source(f"{photos}/*")
    tar = write_tar(tmp_path / "t.tar", {"a.jpg": b""})
    with pytest.raises(SourceError, match="pass one folder"):
        open_source(f"{photos}::{tar}")


def test_a_cache_opens_its_images_under_its_keys(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "t.tar", {"a.1.jpg": b"x", "a.2.jpg": b"y", "a.2.cls": b"no number"})
    rules = SourceRules(tar_keys="last-dot", key_prefix="tar", label_member="none")
    keys = [image.key for image in open_source(str(tar), rules).images]
    again = open_again(str(tar), rules.recorded())
    assert again is not None
    assert [image.key for image in again.images] == keys == ["t/a.1", "t/a.2"]
    assert open_again(None, {}) is None


def test_folders_of_some_classes_get_the_models_indices(photos: Path) -> None:
    names = ["ape", "dog", "cat"]
    source = open_for_classes(str(photos), names)
    assert {image.key.split("/")[0]: image.label for image in source.images} == {"dog": 1, "cat": 2}
    assert open_for_classes(str(photos), []).class_names == ["cat", "dog"]
    (photos / "zebra").mkdir()
    (photos / "zebra" / "0.jpg").write_bytes(image_bytes(0))
    with pytest.raises(SourceError, match=r"class 'zebra' \(1 of 3\) is none of the 3 classes ape, dog, cat"):
        open_for_classes(str(photos), names)


def test_another_class_map_than_the_models_is_refused(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "map").write_text("cat\ndog\n")
    rules = SourceRules(classes=ClassRule(class_map=tmp_path / "map"))
    with pytest.raises(SourceError, match=r"'ape' of the model is missing"):
        open_for_classes(str(photos), ["ape", "cat", "dog"], rules)
    with pytest.raises(SourceError, match="in another order"):
        open_for_classes(str(photos), ["dog", "cat"], rules)
    with pytest.raises(SourceError, match=r"'0', '1', '2', … is no class of the model and 'cat', 'dog' of the model"):
        open_for_classes("digits:test", ["cat", "dog"])


def test_sources_survive_pickling(photos: Path, tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "t.tar.gz", {"a.jpg": b"x"}, "w:gz")
    for text in (str(photos), str(tar), "digits:test"):
        source = open_source(text)
        again = pickle.loads(pickle.dumps(source))
        assert again.read(0) == source.read(0)
        assert again.passed_over_text() == source.passed_over_text()


def test_real_cifar_test_shard(shared_data: object) -> None:
    path = shared_data("cifar10/test-000.tar.gz")
    source = open_source(str(path))
    assert len(source.images) == 10_000
    assert source.num_classes == 10


def test_rules_that_would_be_ignored_are_refused(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="is a folder, and tar keys, key prefix would be ignored"):
        open_source(str(photos), SourceRules(tar_keys="last-dot", key_prefix="tar"))
    with pytest.raises(SourceError, match="is the digits, and label member would be ignored"):
        open_source("digits", SourceRules(label_member="cls"))
    with pytest.raises(SourceError, match="the digits have classes of their own"):
        open_source("digits", SourceRules(classes=ClassRule(class_map=tmp_path / "map")))


def test_labels_of_anything_can_be_left_out(photos: Path) -> None:
    (photos / "dog").rename(photos / "train")
    (photos / "cat").rename(photos / "val")
    with pytest.raises(SourceError, match="are the splits"):
        open_source(str(photos))
    for text in (str(photos), "digits:test"):
        source = open_source(text, SourceRules(label_member="none"))
        assert ({image.label for image in source.images}, source.num_classes, source.label_source) == ({-1}, 0, "")
