from pathlib import Path

import numpy as np
import pytest

from kdcache.cache import open_cache
from kdcache.cache.cache import Cache
from kdcache.stream.reader import ShardReader
from kdcache.teacher.agreement import Agreement, label_agreement
from kdcache.teacher.extract import extract
from tests.conftest import tiny_extract


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
        assert (each.num_images, each.num_classes) == (20, 10)


def test_logits_of_other_classes_are_not_compared(photos: Path, tmp_path: Path) -> None:
    extract(tiny_extract(tmp_path / "c", data=str(photos), taps=("head/logits",), limit=None))
    assert label_agreement(open_cache(tmp_path / "c")) == []


@pytest.mark.parametrize(
    ("fraction", "num_classes", "is_near"),
    [(0.1, 10, True), (0.3, 10, True), (0.31, 10, False), (0.002, 1000, True), (0.7, 1000, False), (0.5, 2, False)],
)
def test_what_guessing_would_give_is_near_chance(fraction: float, num_classes: int, is_near: bool) -> None:
    assert Agreement("g/c", fraction, 100, num_classes).is_near_chance == is_near
