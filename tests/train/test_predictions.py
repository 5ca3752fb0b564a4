import csv
from pathlib import Path

import pytest
import torch

from kdcache.images import open_source
from kdcache.train.predictions import PredictionTable


def rows(path: Path) -> list[list[str]]:
    return list(csv.reader(path.read_text(encoding="utf-8").splitlines()))


def test_likeliest_classes_of_every_image(photos: Path, tmp_path: Path) -> None:
    source = open_source(str(photos))
    table = PredictionTable(source, ["cat", "dog"])
    logits = torch.log(torch.tensor([[0.75, 0.25], [0.1, 0.9]]))
    table.add([4, 0], logits)
    table.write(tmp_path / "p.csv")
    head, *found = rows(tmp_path / "p.csv")
    assert head == ["key", "label", "class1", "probability1", "class2", "probability2"]
    assert [row[0] for row in found] == [image.key for image in source.images]
    assert found[4][2:] == ["cat", "0.75", "dog", "0.25"]
    assert found[0][2:] == ["dog", "0.9", "cat", "0.1"]
    assert [len(row) for row in found] == [6, 2, 2, 2, 6, 2], "what was not decoded has no classes"
    assert {row[1] for row in found} == {"cat", "dog"}


def test_five_of_many_by_number_where_they_have_no_names(tmp_path: Path) -> None:
    source = open_source("digits:test")
    table = PredictionTable(source, [])
    table.add([0], torch.arange(10.0)[None].half())
    table.write(tmp_path / "p.csv")
    _, first, *_ = rows(tmp_path / "p.csv")
    assert first[1] == str(source.images[0].label)
    assert first[2::2] == ["9", "8", "7", "6", "5"]
    assert sum(map(float, first[3::2])) == pytest.approx(float(torch.arange(10.0).softmax(0)[5:].sum()), abs=1e-5)


def test_a_class_beyond_the_names_has_its_number(tmp_path: Path) -> None:
    table = PredictionTable(open_source("digits:test"), ["zero"])
    table.add([0], torch.tensor([[0.0, 1.0]]))
    table.write(tmp_path / "p.csv")
    assert rows(tmp_path / "p.csv")[1][2::2] == ["1", "zero"]
