from pathlib import Path

import pytest
from timm.data.readers.reader_image_folder import find_images_and_targets

from kdcache.errors import SourceError
from kdcache.images.classes import ClassRule, is_dropping, natural_order
from kdcache.images.folder import FolderSource

# Numbers, numbers behind words, mixed case, leading zeros, signs, other scripts, wnids.
NAMES = [
    [str(number) for number in range(12)],
    [f"class{number}" for number in range(1, 11)],
    ["apple", "Banana", "cherry", "Ärger", "zebra"],
    ["img_007", "img_7b", "img_70", "IMG_8", "img-9"],
    ["n01440764", "n02085620", "n00007846"],
    ["二", "三10", "三9"],
]


@pytest.mark.parametrize("names", NAMES, ids=lambda names: names[0])
def test_the_classes_of_a_folder_are_timms(tmp_path: Path, names: list[str]) -> None:
    """An empty folder takes no index there, nor here: a teacher of timm's has these columns."""
    for name in [*names, "5-empty"]:
        (tmp_path / name).mkdir()
    for name in names:
        (tmp_path / name / "x.jpg").write_bytes(b"x")
    _, timms = find_images_and_targets(str(tmp_path))
    assert {name: index for index, name in enumerate(FolderSource(tmp_path).class_names)} == timms


def test_equal_names_but_for_case_have_one_order() -> None:
    assert natural_order(["b", "B", "a1", "A01"]) == natural_order(["A01", "a1", "B", "b"]) == ["A01", "a1", "B", "b"]


def test_code_points_can_be_asked_for() -> None:
    names = ["a", "B", "10", "9"]
    assert ClassRule(order="sorted").class_names(names, where="d") == ["10", "9", "B", "a"]
    assert ClassRule().class_names(names, where="d") == ["9", "10", "a", "B"]
    with pytest.raises(ValueError, match="one of natural, sorted, got 'random'"):
        ClassRule(order="random")


def test_a_class_map_gives_the_indices_of_another_data_set(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "map.txt").write_text("\ufeffbird\ndog\nfish\ncat\n\n")
    rule = ClassRule(class_map=tmp_path / "map.txt")
    source = FolderSource(photos, rule)
    assert source.class_names == ["bird", "dog", "fish", "cat"]
    assert {image.label for image in source.images if image.key.startswith("dog/")} == {1}
    assert {image.label for image in source.images if image.key.startswith("cat/")} == {3}
    assert source.num_classes == 4
    (photos / "zebra").mkdir()
    (photos / "zebra" / "x.jpg").write_bytes(b"x")
    with pytest.raises(SourceError, match=r"class 'zebra' \(1 of 3\) is not in .*map.txt, which names 4"):
        FolderSource(photos, rule)


@pytest.mark.parametrize("text", ["", "cat\ndog\ncat\n", "\xff", "cat\n\ndog\n", '{"0": "cat"}'])
def test_a_class_map_that_is_none(photos: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "map.txt").write_bytes(text.encode("latin-1"))
    with pytest.raises(
        SourceError, match=r"map.txt: (wanted one class folder's name|cannot be read|line 2 is empty|this is JSON)"
    ):
        FolderSource(photos, ClassRule(class_map=tmp_path / "map.txt"))


@pytest.mark.parametrize("name", ["__MACOSX", "@eaDir", ".ipynb_checkpoints", "lost+found", "$RECYCLE.BIN", "._cat"])
def test_droppings_are_no_classes(photos: Path, name: str) -> None:
    assert is_dropping(name)
    (photos / name).mkdir()
    (photos / name / "x.jpg").write_bytes((photos / "dog" / "0.jpg").read_bytes())
    source = FolderSource(photos)
    assert source.class_names == ["cat", "dog"]
    assert source.passed_over == {f"folder {name}": 1}
