"""Labels of tars as their writers leave them: none is lost without a word, and no choice is made in silence."""

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

from kdcache.cli.data_flags import add_rules, rules_of
from kdcache.cli.remedies import error_text
from kdcache.errors import SourceError
from kdcache.images import Source, open_source
from kdcache.images.labels import MAX_CLASSES
from tests.images.support import write_tar


def samples(*labels: dict[str, Any]) -> dict[str, bytes]:
    """Members of samples a, b, ...: an image each, and what is named by its extension; values become JSON or text."""
    members: dict[str, bytes] = {}
    for letter, each in zip("abcdefgh", labels, strict=False):
        members[f"{letter}.jpg"] = letter.encode()
        for extension, value in each.items():
            members[f"{letter}.{extension}"] = (
                json.dumps(value).encode() if extension == "json" else str(value).encode()
            )
    return members


def opened(tmp_path: Path, members: dict[str, bytes], *flags: str) -> Source:
    """The source of a tar, read as some flags say."""
    parser = argparse.ArgumentParser()
    add_rules(parser)
    return open_source(str(write_tar(tmp_path / "t.tar", members)), rules_of(parser.parse_args(flags)))


def labels_of(source: Source) -> list[int]:
    return [image.label for image in source.images]


@pytest.mark.parametrize(
    ("members", "labels", "source"),
    [
        (samples({"cls": 3}, {"cls": 1}), [3, 1], ".cls members"),
        (samples({"json": {"label": 3}}, {"json": {"label": 1}}), [3, 1], "the field label of .json members"),
        # img2dataset, with a column of the table it was given
        (
            samples(*({"json": {"url": "u", "key": "0", "status": "success", "class": n}, "txt": "t"} for n in (2, 0))),
            [2, 0],
            "the field class of .json members",
        ),
        # WebDataset's and timm's ImageNet: both, with the same numbers or the folder's
        (samples({"cls": 3, "json": {"label": 3}}, {"cls": 0, "json": {"label": 9}}), [3, 0], ".cls members"),
        (samples(*({"json": {"label": n, "class_id": n}} for n in (3, 1))), [3, 1], "the field label"),
        (samples(*({"json": {"label": n, "class": "x"}} for n in (5, 0))), [5, 0], "the field label"),
        (samples({"json": {"label": 3.0}}, {"json": {"label": None}}), [3, -1], "the field label"),
        (samples({"json": {"label": "3"}}, {"json": {}}), [3, -1], "the field label"),
        (samples({"label": 4}, {"label": 0}), [4, 0], ".label members"),
        (samples({"json": {"caption": "3"}}, {"json": [3]}), [-1, -1], ""),
        ({"n01/x.jpg": b"", "n02/y.jpg": b"", "n10/z.jpg": b""}, [0, 1, 2], "folders in the tars"),
        ({"./train/n2/x.jpg": b"", "./train/n10/y.jpg": b""}, [0, 1], "folders in the tars"),
        ({"images/x.jpg": b"", "images/y.jpg": b""}, [-1, -1], ""),
        ({"cat/x.JPG": b"", "cat/x.CLS": b"7", "dog/y.Jpg": b"", "dog/y.cls": b"2"}, [7, 2], ".cls members"),
        ({"cat/x.jpg": b"", "cat/x.json": b'{"label": 7}', "dog/y.jpg": b""}, [7, -1], "the field label"),
    ],
)  # fmt: skip
def test_labels_are_found(tmp_path: Path, members: dict[str, bytes], labels: list[int], source: str) -> None:
    found = opened(tmp_path, members)
    assert labels_of(found) == labels
    assert found.label_source.startswith(source)
    assert bool(found.label_source) == bool(source)


def test_members_that_were_not_needed_are_counted(tmp_path: Path) -> None:
    source = opened(tmp_path, samples({"cls": 3, "json": {"label": 9}, "txt": "a"}, {"cls": 1, "json": {}}))
    assert source.passed_over == {".json": 2, ".txt": 1}
    source = opened(tmp_path, samples({"cls": 3, "json": {"label": 9}}), "--label-member", "json:label")
    assert (labels_of(source), source.passed_over) == ([9], {".cls": 1})


@pytest.mark.parametrize(
    ("members", "message", "advice", "labels"),
    [
        (
            samples({"json": {"fine_label": 9, "coarse_label": 1}}),
            "may be any of json:fine_label=9, json:coarse_label=1",
            ["--label-member", "json:coarse_label"],
            [1],
        ),
        (samples({"label": 2, "json": {"label": 3}}), "may be any of", ["--label-member", "label"], [2]),
        (samples({"label": 2, "json": {"label": 3}}), "may be any of", ["--label-member", "none"], [-1]),
        (samples({"cls": 1, "old.cls": 2}), "'a' has 2 labels: a.cls, a.old.cls", ["--label-member", "cls"], [1]),
        (samples({"cls": 1, "old.cls": 2}), "'a' has 2 labels", ["--label-member", "old.cls"], [2]),
        ({"x.jpg": b"", "cat/y.jpg": b""}, "lies beside the folders cat", ["--label-member", "folder"], [-1, 0]),
        ({"x.jpg": b"", "cat/y.jpg": b""}, "lies beside the folders cat", ["--label-member", "none"], [-1, -1]),
        ({"train/x.jpg": b"", "val/y.jpg": b""}, "are the splits train, val", ["--label-member", "none"], [-1, -1]),
        (samples({"cls": "dog"}), r"a\.cls holds 'dog'", ["--class-map", "{map}"], [1]),
        (samples({"json": {"label": "dog"}}), r"a\.json, field label, holds 'dog'", ["--class-map", "{map}"], [1]),
        (samples({"cls": "dog"}), r"a\.cls holds 'dog'", ["--label-member", "none"], [-1]),
    ],
)  # fmt: skip
def test_a_choice_is_refused_and_the_advice_helps(
    tmp_path: Path, members: dict[str, bytes], message: str, advice: list[str], labels: list[int]
) -> None:
    (tmp_path / "map").write_text("cat\ndog\n")
    with pytest.raises(SourceError, match=message) as refused:
        opened(tmp_path, members)
    text = error_text(refused.value)
    assert advice[0] in text
    assert advice[1] in text or advice[1] == "{map}"
    assert labels_of(opened(tmp_path, members, *(word.format(map=tmp_path / "map") for word in advice))) == labels


@pytest.mark.parametrize(
    ("members", "flags", "message"),
    [
        (samples({"cls": -1}), (), r"a\.cls holds '-1', wanted a class index"),
        (samples({"cls": 20260101}), (), rf"wanted a class index such as 17 \(below {MAX_CLASSES:,}\)"),
        (samples({"json": {"label": [1]}}), (), r"field label, holds \[1\]"),
        (samples({"json": {"label": True}}), (), "holds True"),
        (samples({"json": {"label": 1.5}}), (), r"holds 1\.5"),
        (samples({"json": {"x": 1}}), ("--label-member", "json:label"), "no image has a label in json:label"),
        (samples({"cls": 1}), ("--label-member", "output.cls"), "no image has a label in output.cls"),
        ({"a.jpg": b"", "a.json": b"{"}, ("--label-member", "json:x"), "a.json is no readable JSON"),
        ({"a.jpg": b""}, ("--label-member", "folder"), "no image lies in a folder"),
        (samples({"cls": 2}), ("--class-map", "{map}"), r"holds '2', wanted a class index .*below 2\) or the name"),
        (samples({"cls": "zebra"}), ("--class-map", "{map}"), "holds 'zebra'"),
    ],
)  # fmt: skip
def test_no_label_is_guessed(tmp_path: Path, members: dict[str, bytes], flags: tuple[str, ...], message: str) -> None:
    (tmp_path / "map").write_text("cat\ndog\n")
    with pytest.raises(SourceError, match=message):
        opened(tmp_path, members, *(word.format(map=tmp_path / "map") for word in flags))


def test_class_folders_follow_the_order_that_is_asked_for(tmp_path: Path) -> None:
    members = {"n10/x.jpg": b"", "n9/y.jpg": b""}
    assert labels_of(opened(tmp_path, members)) == [1, 0]
    assert labels_of(opened(tmp_path, members, "--class-order", "sorted")) == [0, 1]
    (tmp_path / "map").write_text("n1\nn10\nn9\n")
    assert labels_of(opened(tmp_path, members, "--class-map", str(tmp_path / "map"))) == [1, 2]
