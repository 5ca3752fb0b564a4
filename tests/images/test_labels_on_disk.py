"""Labels and class folders as tired people have them on disk: each is read as stated, or refused with a reason."""

import json
import os
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from kdcache.errors import SourceError
from kdcache.images import Source, open_source
from kdcache.images.classes import ClassRule
from kdcache.images.rules import SourceRules
from tests.images.support import tree, write_tar

NFC, NFD = (unicodedata.normalize(form, "caf\u00e9") for form in ("NFC", "NFD"))


class Read(NamedTuple):
    """What is right: the class of each image (a name, an index, or -1) and what is passed over."""

    labels: dict[str, str | int]
    passed_over: str = ""


def files(*paths: str, **texts: str) -> Callable[[Path], Path]:
    """A tree of files in which all but some texts hold one byte."""

    def make(folder: Path) -> Path:
        for name, text in texts.items():
            (folder / name.replace("_", ".")).write_bytes(text.encode("utf-8", "surrogateescape"))
        return tree(folder / "d", *paths)

    return make


def linked(links: dict[str, str], *paths: str) -> Callable[[Path], Path]:
    """A tree with links, from name to target."""

    def make(folder: Path) -> Path:
        root = tree(folder / "d", *paths)
        for name, target in links.items():
            (root / name).symlink_to(target)
        return root

    return make


def tar(**members: str) -> Callable[[Path], Path]:
    """A tar of texts; ``__`` stands for a slash and ``_`` for a dot."""

    def make(folder: Path) -> Path:
        data = {name.replace("__", "/").replace("_", "."): text.encode() for name, text in members.items()}
        return write_tar(folder / "d.tar", data)

    return make


CASES: dict[str, tuple[Callable[[Path], Path], dict[str, Any], Read | str]] = {
    # Droppings.
    "a Mac has looked at it": (
        files("cat/1.jpg", "dog/2.jpg", ".DS_Store", "cat/.DS_Store", "cat/._1.jpg", "._cat/x.jpg"), {},
        Read({"cat/1.jpg": "cat", "dog/2.jpg": "dog"}, "3 hidden files, 1 folder ._cat"),
    ),
    "Windows has looked at it": (
        files("cat/1.jpg", "dog/2.jpg", "cat/Thumbs.db", "dog/desktop.ini", "System Volume Information/x.jpg"), {},
        Read({"cat/1.jpg": "cat", "dog/2.jpg": "dog"}, "2 hidden files, 1 folder System Volume Information"),
    ),
    "tools of versions and notebooks": (
        files("cat/1.jpg", "dog/2.jpg", ".git/x.jpg", ".ipynb_checkpoints/1.jpg", "cat/.ipynb_checkpoints/1.jpg"),
        {}, Read({"cat/1.jpg": "cat", "dog/2.jpg": "dog"}, "2 folder .ipynb_checkpoints, 1 folder .git"),
    ),
    "empty classes and classes of other formats": (
        files("ant/note.txt", "cat/1.jpg", "dog/2.jpg", "elk/3.heic"), {},
        Read({"cat/1.jpg": "cat", "dog/2.jpg": "dog"}, "2 folders without an image (ant, elk), 1 .heic, 1 .txt"),
    ),
    "an archive beside its folders": (
        files("cat/1.jpg", "dog/2.jpg", "cat/old.zip"), {},
        Read({"cat/1.jpg": "cat", "dog/2.jpg": "dog"}, "1 .zip"),
    ),
    # Links.
    "class folders that are links": (
        linked({"cat": "../away/1", "dog": "../away/2"}, "../away/1/1.jpg", "../away/2/2.jpg"), {},
        Read({"cat/1.jpg": "cat", "dog/2.jpg": "dog"}),
    ),
    "a second name for a class": (
        linked({"feline": "cat"}, "cat/1.jpg", "dog/2.jpg"), {}, "feline: a link to images that",
    ),
    "a link to a part of a class": (linked({"new": "cat/new"}, "cat/new/1.jpg", "dog/2.jpg"), {}, "remove the link"),
    "two links to one folder": (
        linked({"a": "../away", "b": "../away"}, "../away/1.jpg", "c/2.jpg"), {}, "would be read twice, as two classes",
    ),
    "a link upwards": (
        linked({"self": ".", "up": "..", "cat/root": ".."}, "cat/1.jpg", "dog/2.jpg"), {},
        Read({"cat/1.jpg": "cat", "dog/2.jpg": "dog"}, "3 links to folders"),
    ),
    # Nested and flat folders.
    "images and their annotations": (
        files("images/1.jpg", "images/2.jpg", "labels/1.txt", "labels/2.txt"), {},
        Read({"images/1.jpg": -1, "images/2.jpg": -1}, "2 .txt, 1 folder labels without an image"),
    ),
    "one class, and that named": (
        files("cat/1.jpg", classes="ape\ncat\n"), {"class_map": "classes"}, Read({"cat/1.jpg": "cat"}),
    ),
    "thumbnails beside images": (
        files("1.jpg", "2.jpg", "3.jpg", "small/1.jpg"), {}, "holds 3 images, and 1 in its folders small",
    ),
    "unzipped into a folder of its own name": (
        files("pets/pets/cat/1.jpg", "pets/pets/dog/1.jpg"), {}, "pass .*d/pets/pets$",
    ),
    # Names.
    "mixed case": (
        files("Bee/1.jpg", "ant/2.jpg", "Cat/3.jpg", "cat/4.jpg"), {},
        Read({"ant/2.jpg": 0, "Bee/1.jpg": 1, "Cat/3.jpg": 2, "cat/4.jpg": 3}),
    ),
    "spaces, commas and quotes": (
        files("a cat/1 x.jpg", "'dog'/2.jpg", "ant, red/3.jpg", " /4.jpg"), {},
        Read({" /4.jpg": 0, "'dog'/2.jpg": 1, "a cat/1 x.jpg": 2, "ant, red/3.jpg": 3}),
    ),
    "bytes in no encoding": (
        files("b\udcff/1.jpg", "a/2.jpg"), {}, Read({"a/2.jpg": "a", "b\udcff/1.jpg": "b\udcff"}),
    ),
    "one name in two forms": (files(f"{NFC}/1.jpg", f"{NFD}/2.jpg"), {}, "is there twice, 'cafe?.*the same letters"),
    "a class map from another system": (
        files(f"{NFD}/1.jpg", "tea/2.jpg", classes=f"tea\n{NFC}\n"), {"class_map": "classes"},
        Read({f"{NFD}/1.jpg": 1, "tea/2.jpg": 0}),
    ),
    "a class map of Windows": (
        files("b/1.jpg", "a/2.jpg", classes="\ufeffb\r\na\r\n"), {"class_map": "classes"},
        Read({"b/1.jpg": 0, "a/2.jpg": 1}),
    ),
    "a class map with descriptions": (
        files("n01/1.jpg", "n02/2.jpg", classes="n01 tench, Tinca tinca\nn02 goldfish\n"), {"class_map": "classes"},
        "class 'n01' .2 of 2. is not in .*the first 'n01 tench, Tinca tinca'",
    ),
    "some wnids of many": (
        files("n03/1.jpg", "n01/2.jpg", classes="n00\nn01\nn02\nn03\n"), {"class_map": "classes"},
        Read({"n03/1.jpg": 3, "n01/2.jpg": 1}),
    ),
    # Lists.
    "a list of Windows for files in folders": (
        files("a/1.JPG", "b/2.jpg", list="file,label\r\na\\1.jpg,4\r\nb\\2.jpg,0\r\n"), {"labels": "list"},
        Read({"a/1.JPG": 4, "b/2.jpg": 0}),
    ),
    "a list in another form": (
        files(f"{NFD}.jpg", list=f"{NFC}.jpg,{NFC}\n"), {"labels": "list"}, Read({f"{NFD}.jpg": NFC}),
    ),
    "a column that was once a float": (
        files("1.jpg", "2.jpg", list="1.jpg,1.0\n2.jpg,0.0\n"), {"labels": "list"}, Read({"1.jpg": 1, "2.jpg": 0}),
    ),
    "a table with more columns": (
        files("1.jpg", list="id,breed,split\n1.jpg,pug,train\n"), {"labels": "list"}, "has 3 parts",
    ),
    "a list for some images": (
        files("1.jpg", "2.jpg", list="1.jpg,3\n9.jpg,3\n"), {"labels": "list"},
        Read({"1.jpg": 3, "2.jpg": -1}, "1 names of list without an image"),
    ),
    "a list of numbers that are also names": (
        files("1.jpg", list="1.jpg,2\n", classes="2\n1\n0\n"), {"labels": "list", "class_map": "classes"},
        "the label '2' may be the class of this name or the one with this index, '0'",
    ),
    "metadata of the hub that nobody named": (
        files("1.jpg", "metadata.csv"), {}, Read({"1.jpg": -1}, "1 .csv"),
    ),
    "the boxes of a competition": (
        files(*(f"{n}.jpg" for n in range(12)), list="Id,Box\n" + "".join(f"{n},n0 {n} 1 9\n" for n in range(12))),
        {"labels": "list"}, "every one of its 12 lines has another label, such as 'n0 0 1 9'",
    ),
    "few images, each of its class": (
        files("1.jpg", "2.jpg", list="1.jpg,cat\n2.jpg,dog\n"), {"labels": "list"}, Read({"1.jpg": 0, "2.jpg": 1}),
    ),
    "a list of truth values": (
        files("1.jpg", "2.jpg", list="1.jpg,True\n2.jpg,False\n"), {"labels": "list"}, Read({"1.jpg": 1, "2.jpg": 0}),
    ),
    "a name with a comma in quotes": (
        files("1.jpg", "2.jpg", list='file,label\n"1.jpg","cat, red"\n2.jpg,dog\n'), {"labels": "list"},
        Read({"1.jpg": "cat, red", "2.jpg": "dog"}),
    ),
    "a list as a table of JSON": (files("1.jpg", list='{"1.jpg": 3}'), {"labels": "list"}, "this is JSON; wanted"),
    "a list with absolute paths": (
        files("1.jpg", list="/old/disk/1.jpg,3\n/old/disk/2.jpg,4\n"), {"labels": "list"}, "names none of the images",
    ),
    "a list with its columns the other way round": (
        files("1.jpg", "2.jpg", list="label,file\n3,1.jpg\n4,2.jpg\n"), {"labels": "list"}, "names none of the images",
    ),
    "a list with a number for no label": (
        files("1.jpg", "2.jpg", list="1.jpg,3\n2.jpg,-1\n"), {"labels": "list"}, "line 2 holds '-1'",
    ),
    "the truth of a validation set": (
        files("v1.JPEG", "v2.JPEG", list="v1.JPEG 65\nv2.JPEG 970\n"), {"labels": "list"},
        Read({"v1.JPEG": 65, "v2.JPEG": 970}),
    ),
    "a class map with indices": (
        files("tench/1.jpg", "eel/2.jpg", classes="0 tench\n1 eel\n"), {"class_map": "classes"},
        "is not in .*the first '0 tench'",
    ),
    "a class map as JSON": (
        files("n01/1.jpg", "n02/2.jpg", classes='{"0": ["n01", "tench"]}'), {"class_map": "classes"}, "this is JSON",
    ),
    "years of one data set": (files("train2017/1.jpg", "val2017/2.jpg"), {}, "are the splits train2017, val2017"),
    "folders of another layer": (
        files("n01/images/1.jpg", "n01/boxes.txt", "n02/images/2.jpg"), {},
        Read({"n01/images/1.jpg": "n01", "n02/images/2.jpg": "n02"}, "1 .txt"),
    ),
    # Labels in tars.
    "a label as Python prints it": (tar(a_jpg="", a_cls="tensor(3)"), {}, r"holds 'tensor\(3\)', wanted a class index"),
    "a label in digits of another script": (tar(a_jpg="", a_cls="\u0663"), {}, "wanted a class index"),
    "a label in bytes": (tar(a_jpg="", a_cls="\x03\x00\x00\x00"), {}, "wanted a class index"),
    "json that is infinite": (tar(a_jpg="", a_json='{"label": 1e400}'), {}, "holds inf, wanted"),
    "json of several labels": (tar(a_jpg="", a_json='{"labels": [1, 2]}'), {}, Read({"a": -1}, "1 .json")),
    "json with a number in quotes": (
        tar(a_jpg="", a_json=json.dumps({"label": "7", "width": 3})), {}, Read({"a": 7}),
    ),
    "json with a name, and the names": (
        tar(a_jpg="", a_json=json.dumps({"label": NFD})), {"class_map": "classes"}, "cannot be read as a class map",
    ),
    "json with one-hot labels": (
        tar(a_jpg="", a_json=json.dumps({"label": [0, 1]})), {}, r"holds \[0, 1\], wanted a class index",
    ),
    "json with a truth value": (tar(a_jpg="", a_json=json.dumps({"label": True})), {}, "holds True, wanted"),
    "json without a label": (
        tar(a_jpg="", a_json=json.dumps({"caption": "a cat"})), {}, Read({"a": -1}, "1 .json"),
    ),
    "text with a line end": (tar(a_jpg="", a_cls="3\n"), {}, Read({"a": 3})),
    "no class is minus one": (tar(a_jpg="", a_cls="-1"), {}, "holds '-1', wanted a class index"),
    "class folders of a tar with droppings": (
        tar(d__cat__a_jpg="", d__dog__b_jpg="", __MACOSX__d__cat___a_jpg=""), {},
        Read({"d/cat/a": "cat", "d/dog/b": "dog"}, "1 hidden files"),
    ),
    "an image and its label under names of their own": (
        tar(a__image_jpg="", a__label_cls="3", b__image_jpg="", b__label_cls="4"), {},
        "2 label members have the key of no image, and the folders",
    ),
    "images here and labels there": (
        tar(images__a_jpg="", labels__a_cls="3"), {}, Read({"images/a": -1}, "1 labels without an image"),
    ),
    "train and val in a tar": (
        tar(train__cat__a_jpg="", val__cat__b_jpg=""), {}, "are the splits train, val, not classes",
    ),
}  # fmt: skip


def opened(case: str, folder: Path) -> Source:
    make, rules, _ = CASES[case]
    data = make(folder)
    given = {name: folder / value for name, value in rules.items()}
    class_map = given.pop("class_map", None)
    return open_source(str(data), SourceRules(classes=ClassRule(class_map=class_map), **given))


@pytest.mark.parametrize("case", CASES)
def test_what_is_on_disk_is_read_or_refused(tmp_path: Path, case: str) -> None:
    right = CASES[case][2]
    if isinstance(right, str):
        with pytest.raises(SourceError, match=right):
            opened(case, tmp_path)
        return
    source = opened(case, tmp_path)
    found: dict[str, str | int] = {image.key: image.label for image in source.images}
    # Where a name is wanted, the index stands for it.
    by_name = {
        key: source.class_names[int(label)] if isinstance(right.labels.get(key), str) else label
        for key, label in found.items()
    }
    assert by_name == right.labels
    assert source.passed_over_text() == right.passed_over


def test_folders_within_class_folders_are_reported(tmp_path: Path) -> None:
    """timm takes the innermost folders for classes, torchvision and this the outermost."""
    root = tree(tmp_path, "pets/cat/1.jpg", "pets/dog/2.jpg", "cars/audi/1.jpg", "cars/3.jpg")
    source = open_source(str(root))
    assert source.class_names == ["cars", "pets"]
    assert source.label_source == "class folders, with the images of 3 folders inside them"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user to be refused as")
def test_a_class_folder_that_may_not_be_listed_ends_it(tmp_path: Path) -> None:
    from tests.test_durable import as_another_user

    root = tree(tmp_path / "d", "cat/1.jpg", "dog/2.jpg")
    (root / "dog").chmod(0)
    for folder in (root, tmp_path, *tmp_path.parents[:3]):
        folder.chmod(0o755)
    with as_another_user(), pytest.raises(SourceError, match=r"dog: cannot be listed .*nothing is left out"):
        open_source(str(root))
    (root / "dog").chmod(0o755)
