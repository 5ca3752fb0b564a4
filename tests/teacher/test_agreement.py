from pathlib import Path

import msgspec
import numpy as np
import pytest

from kdcache.cache import open_cache
from kdcache.cache.cache import Cache
from kdcache.reading.reader import ShardReader
from kdcache.teacher.agreement import Agreement, label_agreement, other_classes_text
from kdcache.teacher.extract import extract
from tests.conftest import GROUP, tiny_extract


def test_it_is_what_the_records_say(tiny_cache: Cache) -> None:
    found = label_agreement(tiny_cache)
    assert [each.column for each in found] == [column.name for column in tiny_cache.columns if column.kind == "logits"]
    for each in found:
        [column] = [column for column in tiny_cache.columns if column.name == each.column]
        reader = ShardReader(tiny_cache, [column])
        hits = []
        for sample in range(tiny_cache.manifest.num_samples):
            shard, row = reader.locate(sample)
            hits.append(int(reader.decode_record(shard, row, 0, column).argmax()) == shard.index.labels[row])
        assert each.fraction == np.mean(hits)
        assert (each.num_images, each.num_classes, each.num_labels) == (20, 10, 10)


def test_other_classes_are_noted_before_the_pass_and_compared_after_it(photos: Path, tmp_path: Path) -> None:
    notes: list[str] = []
    config = tiny_extract(tmp_path / "c", data=str(photos), taps=("head/logits",), limit=None)
    extract(config, on_note=notes.append)
    assert notes == [
        f"the labels have 2 classes, the teacher's logits 10 ({GROUP}): a student can learn from the labels or from "
        "the logits, not both on one head, unless a class map gives the labels the teacher's numbers"
    ]
    [found] = label_agreement(open_cache(tmp_path / "c"))
    assert (found.num_classes, found.num_labels, found.num_images) == (10, 2, 6)


def test_a_part_of_the_teachers_classes_needs_no_note(tmp_path: Path) -> None:
    """`train` takes such labels with the logits, so that a note against it would be wrong."""
    extract(tiny_extract(tmp_path / "c", limit=4))
    cache = open_cache(tmp_path / "c")
    source = cache.manifest.fingerprint.source
    part = msgspec.structs.replace(source, class_names=[], num_classes=9)
    groups = {name: group.manifest.fingerprint for name, group in cache.groups.items()}
    assert other_classes_text(part, groups) == ""
    assert other_classes_text(msgspec.structs.replace(part, num_classes=5), groups) != ""


def test_equal_numbers_of_classes_and_images_without_labels_need_no_note(tmp_path: Path, photos: Path) -> None:
    notes: list[str] = []
    extract(tiny_extract(tmp_path / "c", limit=4), on_note=notes.append)
    extract(tiny_extract(tmp_path / "d", data=str(photos / "cat"), max_bad=1.0), on_note=notes.append)
    assert notes == []
    assert label_agreement(open_cache(tmp_path / "d")) == []


@pytest.mark.parametrize(
    ("fraction", "num_classes", "is_near"),
    [(0.1, 10, True), (0.3, 10, True), (0.31, 10, False), (0.002, 1000, True), (0.7, 1000, False), (0.5, 2, False)],
)
def test_what_guessing_would_give_is_near_chance(fraction: float, num_classes: int, is_near: bool) -> None:
    assert Agreement("g/c", fraction, 100, num_classes, num_classes).is_near_chance == is_near
