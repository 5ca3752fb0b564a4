import shutil
from pathlib import Path

import pytest

from kdcache.cache import open_cache
from kdcache.cache.base import PlannedShard
from kdcache.cache.extraction import ShardTask
from kdcache.errors import CacheMismatchError
from kdcache.images import open_source
from kdcache.teacher.extract import extract
from kdcache.teacher.images_of import committed_images, planned_images, replayed_images
from kdcache.teacher.reading import ImageReader
from kdcache.teacher.replaying import ReplayReader
from kdcache.teacher.source_plan import SourcePlan, plan_source
from kdcache.views import ViewRecipe
from tests.conftest import tiny_extract

TASK = ShardTask(PlannedShard("train-000001", 3, 3), False, ("g",))


@pytest.fixture
def made(photos: Path, tmp_path: Path) -> tuple[Path, ImageReader]:
    """A cache of six images in two shards, the fifth of them bad, and the reader it was made with."""
    config = tiny_extract(tmp_path / "c", data=str(photos), limit=None, shard_samples=3, max_bad=0.5)
    plan: SourcePlan = plan_source(open_source(str(photos)), config)
    bad = plan.source.images[plan.positions[4]].key
    (photos / bad).write_bytes(b"")
    extract(config)
    views = open_cache(tmp_path / "c").manifest.fingerprint.views
    return tmp_path / "c", ImageReader(plan, ViewRecipe(name="rrc-flip", size=16), views, 3)


def test_a_fresh_shard_takes_all_its_images(made: tuple[Path, ImageReader]) -> None:
    images = planned_images(made[1], TASK)
    assert (list(images.numbers), images.skipped, images.reader) == ([3, 4, 5], {}, made[1])


def test_a_committed_shard_skips_what_its_ledger_names(made: tuple[Path, ImageReader]) -> None:
    root, reader = made
    cache = open_cache(root)
    images = committed_images(cache.paths, reader, TASK)
    assert (list(images.numbers), images.skipped) == ([3, 4, 5], {4: "empty file"})
    index = cache.index(cache.manifest.shards[1])
    assert [images.reader.read(number).sample for number in (3, 5)] == [index.sample(row) for row in range(2)]
    assert images.reader.bad(4, "empty file").position == 1
    with pytest.raises(CacheMismatchError, match="is in the base and cannot be read now"):
        images.reader.bad(5, "gone")


def test_a_finished_base_is_replayed_by_its_own_numbers(made: tuple[Path, ImageReader]) -> None:
    root, _ = made
    shutil.rmtree(root / "job")
    task = ShardTask(PlannedShard("train-000001", 3, 2), False, ("g",))
    images = replayed_images(ReplayReader(root, None), task)
    cache = open_cache(root)
    index = cache.index(cache.manifest.shards[1])
    assert (list(images.numbers), images.skipped) == ([3, 4], {})
    assert [images.reader.key(number) for number in images.numbers] == [index.key(0), index.key(1)]
