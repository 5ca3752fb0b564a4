import uuid
from pathlib import Path

import pytest

from kdcache.distributed.env import WorkerEnv
from kdcache.errors import CacheBusyError
from kdcache.images import Source
from kdcache.teacher.begin import begin
from tests.conftest import GROUP, tiny_add, tiny_extract


def job() -> WorkerEnv:
    return WorkerEnv(0, 1, 0, f"test:{uuid.uuid4()}")


def test_a_new_cache_begins_with_its_images_and_its_teacher(tmp_path: Path) -> None:
    seen: list[Source] = []
    begun = begin(tiny_extract(tmp_path / "c"), job(), lambda source, _: seen.append(source))
    begun.extraction.close()
    assert [shard.num_samples for shard in begun.shards] == [8, 8, 4]
    assert begun.teacher is not None
    assert begun.plan is not None and begun.plan.source is seen[0]
    assert list(begun.extraction.groups) == [GROUP]


def test_a_group_begins_with_the_shards_of_its_base(cache_copy: Path) -> None:
    begun = begin(tiny_add(cache_copy), job(), None)
    begun.extraction.close()
    assert [(shard.first, shard.num_samples) for shard in begun.shards] == [(0, 8), (8, 8), (16, 4)]
    assert begun.plan is None, "the base is read, not written"


def test_the_right_to_write_is_held_until_it_is_closed(tmp_path: Path) -> None:
    begun = begin(tiny_extract(tmp_path / "c"), job(), None)
    with pytest.raises(CacheBusyError):
        begin(tiny_extract(tmp_path / "c"), job(), None)
    begun.extraction.close()
    begin(tiny_extract(tmp_path / "c"), job(), None).extraction.close()
