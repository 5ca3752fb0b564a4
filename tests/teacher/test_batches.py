from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kdcache.cache import Extraction, open_cache
from kdcache.cache.base import PlannedShard
from kdcache.cache.extraction import ShardTask
from kdcache.errors import KdcacheError
from kdcache.images import open_source
from kdcache.interrupt import StopRequest
from kdcache.teacher import batches
from kdcache.teacher.batches import RecordBatch, ShardEnd, TaskImages, plan_batches
from kdcache.teacher.reading import ImageReader
from kdcache.teacher.source_plan import SourcePlan
from kdcache.views import ViewRecipe
from tests.conftest import tiny_extract
from tests.teacher.support import fingerprint_views

SHARDS = [PlannedShard("train-000000", 0, 5), PlannedShard("train-000001", 5, 2)]


def plan_all(
    job: Extraction, photos: Path | None = None, stop: StopRequest | None = None, skipped: dict[int, str] | None = None
) -> list[RecordBatch | ShardEnd]:
    source = open_source(str(photos) if photos else "digits:test")
    positions = list(range(len(source.images)))
    plan = SourcePlan(source, positions, [f"key-{p}" for p in positions])
    reader = ImageReader(plan, ViewRecipe(name="rrc-flip", size=16), fingerprint_views(2), 6)
    config = tiny_extract(Path("unused"), batch_size=4)
    shards = SHARDS if photos is None else [PlannedShard("train-000000", 0, 6)]
    tasks = [ShardTask(shard, True, ()) for shard in shards]

    def images_of(task: ShardTask) -> TaskImages:
        first = task.shard.first
        return TaskImages(reader, range(first, first + task.shard.num_samples), skipped or {})

    with ThreadPoolExecutor(2) as pool:
        return list(plan_batches(job, images_of, tasks, pool, config=config, stop=stop or StopRequest()))


@pytest.fixture
def job(tiny_root: Path, tmp_path: Path) -> Extraction:
    base = open_cache(tiny_root).manifest.fingerprint
    return Extraction(tmp_path / "c", base, {}, "job", writes_base=True)


def test_batches_never_cross_shards(job: Extraction) -> None:
    found = plan_all(job)
    sizes = [len(each.names) if isinstance(each, RecordBatch) else each.task.shard.name for each in found]
    assert sizes == [4, 4, 2, "train-000000", 4, "train-000001"]
    assert [name for each in found if isinstance(each, RecordBatch) for name in each.names] == [
        (f"key-{sample}", view) for sample in range(7) for view in range(2)
    ]
    assert all(each.pixels.shape == (len(each.names), 16, 16, 3) for each in found if isinstance(each, RecordBatch))


def test_each_image_is_handed_over_once_with_its_first_view(job: Extraction) -> None:
    seen = [image.sample.key for each in plan_all(job) if isinstance(each, RecordBatch) for image in each.images]
    assert seen == [f"key-{sample}" for sample in range(7)]


def test_bad_images_leave_no_gap_in_a_batch(job: Extraction, photos: Path) -> None:
    (photos / "cat" / "3.webp").write_bytes(b"")
    found = plan_all(job, photos)
    assert [len(each.names) for each in found if isinstance(each, RecordBatch)] == [4, 4, 2]
    [end] = [each for each in found if isinstance(each, ShardEnd)]
    assert [bad.source_key for bad in end.bad] == ["cat/3.webp"]


def test_images_of_the_ledger_are_not_read_again(job: Extraction, photos: Path) -> None:
    (photos / "cat" / "3.webp").write_bytes(b"")
    [end] = [each for each in plan_all(job, photos, skipped={1: "as before"}) if isinstance(each, ShardEnd)]
    assert [(bad.position, bad.reason) for bad in end.bad] == [(1, "as before")]


def test_a_stop_lets_no_new_shard_begin(job: Extraction) -> None:
    stop = StopRequest()
    stop.signal_number = 15
    assert plan_all(job, stop=stop) == []


def test_the_third_attempt_looks_for_poison(job: Extraction, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "find_poison", lambda read, numbers, *, timeout_s: {2: "killed the process"})
    for _ in range(2):
        job.count_attempt("train-000000")
    ends = [each for each in plan_all(job) if isinstance(each, ShardEnd)]
    assert [[bad.reason for bad in end.bad] for end in ends] == [["quarantined: killed the process"], []]


def test_a_shard_that_keeps_dying_all_the_same_is_given_up(job: Extraction, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "find_poison", lambda read, numbers, *, timeout_s: {})
    for _ in range(7):
        job.count_attempt("train-000000")
    with pytest.raises(KdcacheError, match=r"begun 7 times and never finished.*memory.*remove .*train-000000.json"):
        plan_all(job)
