from pathlib import Path

import pytest

from kdcache.errors import SourceError
from kdcache.images import Source, open_source
from kdcache.images.classes import ClassRule
from kdcache.images.rules import SourceRules
from tests.images.support import write_tar


def labelled(root: Path, lines: str, *, names: tuple[str, ...] = (), encoding: str = "utf-8") -> Source:
    path = root.parent / "labels.csv"
    path.write_bytes(lines.encode(encoding))
    return open_source(str(root), SourceRules(labels=path, classes=ClassRule(names=names)))


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    """Three images without classes."""
    (tmp_path / "flat").mkdir()
    for name in ("a.jpg", "b b.jpg", "c.jpg"):
        (tmp_path / "flat" / name).touch()
    return tmp_path / "flat"


@pytest.mark.parametrize(
    "lines",
    [
        "a.jpg,2\nb b.jpg,0\nc.jpg,1\n",
        "a,2\nb b,0\nc,1\n",
        "id,label\na,2\nb b,0\nc,1\n",
        "a.jpg\t2\r\nb b.jpg\t0\r\nc.jpg\t1\r\n",
        "a.jpg 2\nb b.jpg 0\nc.jpg 1",
        "./a.jpg;2\n\n./b b.jpg;0\n./c.jpg;1\n",
        '"a.jpg","2"\n"b b.jpg","0"\n"c.jpg","1"\n',
        "\ufeffname,label\na.jpg,2\nb b.jpg,0\nc.jpg,1\n",
        "a.jpg,2\nb b.jpg,0\nc.jpg,1\na.jpg,2\n",
    ],
    ids=["csv", "no endings", "heading", "tabs", "spaces", "semicolons", "quotes", "byte order mark", "said twice"],
)
def test_lists_as_people_write_them(flat: Path, lines: str) -> None:
    source = labelled(flat, lines)
    assert [image.label for image in source.images] == [2, 0, 1]
    assert source.class_names == []


def test_names_are_numbered_in_the_order_of_classes(flat: Path) -> None:
    lines = "image_id,breed\na,dog\nb b,cat\nc,ape\n"
    assert [image.label for image in labelled(flat, lines).images] == [2, 1, 0]
    assert labelled(flat, lines).class_names == ["ape", "cat", "dog"]
    assert "its first line is its heading: image_id, breed" in labelled(flat, lines).label_source
    named = labelled(flat, lines, names=("cat", "dog", "ape", "emu"))
    assert ([image.label for image in named.images], named.num_classes) == ([1, 0, 2], 4)


def test_names_without_images_and_images_without_names_are_counted(flat: Path) -> None:
    source = labelled(flat, "a.jpg,2\nx.jpg,0\ny.jpg,1\nz.jpg,1\n")
    assert [image.label for image in source.images] == [2, -1, -1]
    assert source.passed_over == {"names of labels.csv without an image": 3}


def test_it_takes_the_place_of_other_labels(photos: Path, tmp_path: Path) -> None:
    source = labelled(photos, "cat/1,4\n0.jpg,5\n")
    assert {image.key: image.label for image in source.images if image.label >= 0} == {"cat/1.JPEG": 4, "dog/0.jpg": 5}
    assert source.class_names == []
    tar = write_tar(tmp_path / "t.tar", {"x/a.jpg": b"", "x/a.cls": b"not a number", "x/b.jpg": b""})
    source = labelled(tar, "a.jpg,4\nx/b,5\n")
    assert [image.label for image in source.images] == [4, 5]
    assert source.passed_over[".cls"] == 1


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("", "is empty"),
        ("a.jpg\n", "has 1 parts; wanted a name and a label"),
        ("a.jpg,1,2\n", "has 3 parts"),
        ("a.jpg,\n", "wanted a name and a label"),
        ("a.jpg,1\na.jpg,2\n", "line 2: 'a.jpg' has another label further up"),
        ("q.jpg,1\nr.jpg,1\n", "names none of the images; it has 'q.jpg', the images are named as 'a.jpg'"),
        ("a.jpg,1\nb b.jpg,1\nc.jpg,cat\n", "line 3: the label is 'cat', most others are numbers"),
        ("a.jpg,99999999\n", "line 1 holds '99999999'"),
        ("a.jpg,-1\n", "line 1 holds '-1'"),
        ("a.jpg,1.5\n", "line 1 holds '1.5'"),
    ],
)
def test_a_list_that_leaves_doubt_is_refused(flat: Path, lines: str, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        labelled(flat, lines)


def test_a_file_name_in_two_folders_is_ambiguous(tmp_path: Path) -> None:
    for name in ("a/x.jpg", "b/x.jpg"):
        (tmp_path / "two" / name).parent.mkdir(parents=True)
        (tmp_path / "two" / name).touch()
    with pytest.raises(SourceError, match=r"line 1: 'x.jpg' may be 'a/x.jpg' or 'b/x.jpg'; give their whole names"):
        labelled(tmp_path / "two", "x.jpg,1\n")
    assert [image.label for image in labelled(tmp_path / "two", "a/x.jpg,1\nb/x.jpg,2\n").images] == [1, 2]


def test_what_is_no_list(flat: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no such file; wanted a list"):
        open_source(str(flat), SourceRules(labels=tmp_path / "none.csv"))
    with pytest.raises(SourceError, match="no such file; wanted a list"):
        open_source(str(flat), SourceRules(labels=tmp_path))
    with pytest.raises(SourceError, match="no text in UTF-8"):
        labelled(flat, "a.jpg,1\n", encoding="utf-16")
