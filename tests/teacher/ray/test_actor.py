"""The actor as a plain object: what it says to the driver needs no Ray."""

from pathlib import Path
from typing import Any

import pytest

from kdcache.cache import Cache, open_cache
from kdcache.errors import KdcacheError, ModelError, UsageError
from kdcache.teacher.ray.actor import Hung, Plan, Ready, Refused, ShardActor, Wrote
from kdcache.teacher.reading import HungImageError
from kdcache.teacher.worker import Done, Progress, Worker
from tests.conftest import GROUP, tiny_extract


@pytest.fixture(autouse=True)
def _same_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An actor enters the driver's folder."""
    monkeypatch.chdir(tmp_path)


def actor(out: Path, **changes: Any) -> ShardActor:
    return ShardActor(tiny_extract(out, **changes), "ray:test", Path.cwd())


def test_it_says_what_is_pending_writes_it_and_finishes(tiny_cache: Cache, tmp_path: Path) -> None:
    own = actor(tmp_path / "c")
    assert list(own.begin()) == [Ready([])]
    [plan] = own.plan()
    assert isinstance(plan, Plan)
    assert plan.pending == {"train-000000": 16, "train-000001": 16, "train-000002": 8}
    done = Done()
    for name, num_views in plan.pending.items():
        *steps, wrote = own.extract(name, 0)
        assert all(isinstance(step, Progress) for step in steps)
        assert isinstance(wrote, Wrote)
        assert (wrote.done.num_records, wrote.num_bad) == (num_views, 0)
        done.add(wrote.done)
    finished = own.finish(done, True)
    own.close()
    assert isinstance(finished, tuple)
    assert list(finished[1]) == [GROUP]
    assert open_cache(tmp_path / "c").digest == tiny_cache.digest


def test_a_shard_that_somebody_has_committed_before_dying_is_not_written_again(tmp_path: Path) -> None:
    first, second = actor(tmp_path / "c"), actor(tmp_path / "c")
    assert list(first.begin()) == list(second.begin()) == [Ready([])]
    list(first.extract("train-000000", 0))
    first.close()
    [wrote] = second.extract("train-000000", 0)
    second.close()
    assert wrote == Wrote(Done(), 0)


def test_relative_paths_are_those_of_the_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "driver").mkdir()
    own = ShardActor(tiny_extract(Path("c")), "ray:test", tmp_path / "driver")
    list(own.begin())
    own.close()
    assert (tmp_path / "driver" / "c" / "job").is_dir()
    [refused] = ShardActor(tiny_extract(Path("c")), "ray:test", tmp_path / "elsewhere").begin()
    assert isinstance(refused, Refused) and isinstance(refused.error, UsageError)
    assert "run the pass in a folder that all machines of the Ray cluster share" in str(refused.error)


def test_errors_with_words_travel_as_values_and_others_are_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [refused] = actor(tmp_path / "c", teacher="vit_no_such_model").begin()
    assert isinstance(refused, Refused) and isinstance(refused.error, ModelError)
    own = actor(tmp_path / "c")
    list(own.begin())
    for error, kind in ((HungImageError("image 3"), Hung), (KdcacheError("no"), Refused), (MemoryError(), Refused)):

        def fails(*_: object, error: Exception = error) -> Any:
            raise error

        monkeypatch.setattr(Worker, "run", fails)
        [event] = own.extract("train-000000", 0)
        assert isinstance(event, kind)
    monkeypatch.setattr(Worker, "run", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        list(own.extract("train-000000", 0))
    monkeypatch.setattr(Worker, "finish", lambda *_: (_ for _ in ()).throw(OSError("no")))
    assert isinstance(own.finish(Done(), False), Refused)
    own.close()
