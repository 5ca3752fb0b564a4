import uuid
from contextlib import closing
from pathlib import Path

import pytest

from kdcache.cache import Cache, open_cache
from kdcache.distributed.env import WorkerEnv
from kdcache.errors import DiskFullError
from kdcache.interrupt import StopRequest
from kdcache.teacher.worker import Done, Worker
from tests.conftest import file_hashes, tiny_extract


def worker(out: Path, **changes: object) -> Worker:
    return Worker(tiny_extract(out, **changes), WorkerEnv(0, 1, 0, f"test:{uuid.uuid4()}"))


def test_shards_in_any_order_one_at_a_time_give_the_same_cache(
    tiny_cache: Cache, tiny_root: Path, tmp_path: Path
) -> None:
    done = Done()
    with closing(worker(tmp_path / "c")) as own:
        for task in reversed(own.prepare(own.shards)):
            part = Done()
            steps = list(own.run([task], part))
            assert steps[-1].num_records == steps[-1].num_pending == 2 * task.shard.num_samples
            done.add(part)
        assert own.finish() is not None
    assert (done.num_shards, done.num_records) == (3, 40)
    assert done.times.compute_s > 0
    assert open_cache(tmp_path / "c").digest == tiny_cache.digest
    assert file_hashes(tmp_path / "c") == file_hashes(tiny_root)


def test_nothing_is_finished_while_a_shard_is_pending(tmp_path: Path) -> None:
    with closing(worker(tmp_path / "c")) as own:
        tasks = own.prepare(own.shards)
        list(own.run(tasks[:2], Done()))
        assert own.finish() is None
        assert own.task(own.shards[0]) is None
        assert own.prepare(own.shards) == tasks[2:]


def test_a_request_to_stop_begins_no_shard(tmp_path: Path) -> None:
    stop, done = StopRequest(), Done()
    stop.signal_number = 15
    with closing(worker(tmp_path / "c")) as own:
        assert list(own.run(own.prepare(own.shards), done, stop=stop)) == []
    assert done.num_shards == 0


def test_bad_images_are_counted_whoever_wrote_them(photos: Path, tmp_path: Path) -> None:
    broken = next(path for path in sorted(photos.rglob("*")) if path.is_file())
    broken.write_bytes(b"no image")
    settings = {"data": str(photos), "limit": None, "max_bad": 0.5, "shard_samples": 2}
    with closing(worker(tmp_path / "c", **settings)) as first:
        list(first.run(first.prepare(first.shards), Done()))
        assert first.num_bad == 1
        assert sum(map(first.bad_in, first.shards)) == 1
    with closing(worker(tmp_path / "c", **settings)) as second:
        assert second.prepare(second.shards) == []
        assert second.num_bad == 1


def test_leftovers_of_the_dead_go_and_those_of_the_living_stay(tmp_path: Path) -> None:
    with closing(worker(tmp_path / "c")) as own:
        steps = own.run(own.prepare(own.shards), Done())
        next(steps), next(steps)
        living = set((tmp_path / "c").rglob("*.tmp"))
        assert living, "a shard is being written"
        one = min(living)
        host, pid = one.name.split(".")[-4:-2]
        dead = one.with_name(one.name.replace(f".{host}.{pid}.", f".{host}.999999999."))
        dead.write_bytes(b"half")
        own.remove_leftovers()
        assert not dead.exists()
        assert living <= set((tmp_path / "c").rglob("*.tmp"))
        steps.close()


def test_a_disk_that_is_too_small_is_refused_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdcache.teacher.space.shutil.disk_usage", lambda _: type("Usage", (), {"free": 1}))
    with closing(worker(tmp_path / "c")) as own, pytest.raises(DiskFullError):
        own.prepare(own.shards)


def test_a_worker_that_cannot_be_made_holds_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no")

    with monkeypatch.context() as patch:
        patch.setattr("kdcache.teacher.worker.Forward", broken)
        with pytest.raises(RuntimeError):
            worker(tmp_path / "c")
    worker(tmp_path / "c").close()
