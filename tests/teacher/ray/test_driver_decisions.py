"""What the driver decides when actors end at moments that no test can hit in a real cluster."""

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import pytest

from kdcache.errors import ModelError, RankLostError
from kdcache.teacher.extract import ExtractReport
from kdcache.teacher.ray import RayCluster, extract_on_ray
from kdcache.teacher.ray.actor import Event, Hung, Ready, Refused
from tests.conftest import tiny_extract
from tests.teacher.ray.fake_ray import FakeRay, RayError, RayTaskError, begun, wrote

GONE = "The actor is dead because its node has died"
DEAD = RayError(f"{GONE}. Node Id: 7")


def on_ray(folder: Path, notes: list[str] | None = None, *, num_actors: int = 2) -> ExtractReport:
    notes = [] if notes is None else notes
    return extract_on_ray(tiny_extract(folder / "c"), RayCluster(num_actors=num_actors), on_note=notes.append)


def scripted(
    patch: pytest.MonkeyPatch, *scripts: Sequence[Sequence[Event | Exception]], finished: object = None
) -> FakeRay:
    ray = FakeRay(*scripts, finished=finished)
    patch.setattr("kdcache.teacher.ray.driver.connected", lambda _: nullcontext(ray))
    return ray


def test_an_actor_that_dies_while_it_starts_is_no_dead_teacher_where_another_has_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    works = [begun("a", "b", "c"), [wrote()]]
    scripted(monkeypatch, works, [begun("a", "b", "c"), [DEAD]], [[DEAD]])
    notes: list[str] = []
    report = on_ray(tmp_path, notes)
    assert report.num_shards == 3
    assert notes == [
        f"a Ray actor ended while it wrote shard b ({GONE}), attempt 1 of 3",
        f"a Ray actor ended while it loaded the teacher ({GONE}); the others go on",
    ]


def test_the_last_actor_that_dies_while_it_starts_ends_the_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = scripted(monkeypatch, [begun("a"), [DEAD]], [[DEAD]])
    with pytest.raises(
        RankLostError, match=r"ended while it loaded the teacher .* has died\); what was finished is safe"
    ):
        on_ray(tmp_path, num_actors=1)
    assert all(actor.is_killed for actor in ray.actors)
    scripted(monkeypatch, [[Ready([]), DEAD]])
    with pytest.raises(RankLostError, match="ended while it loaded the teacher"):
        on_ray(tmp_path, num_actors=1)
    scripted(monkeypatch, [begun("a"), [wrote()]], finished=DEAD)
    with pytest.raises(RankLostError, match="ended while it wrote the manifests"):
        on_ray(tmp_path, num_actors=1)


def test_an_error_of_one_actor_ends_all_and_a_bug_is_a_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for event, error in ((Refused(ModelError("no")), ModelError), (RayTaskError("bug"), RayTaskError)):
        ray = scripted(monkeypatch, [begun("a", "b"), [event]])
        with pytest.raises(error):
            on_ray(tmp_path)
        assert all(actor.is_killed for actor in ray.actors)
    scripted(monkeypatch, [begun("a"), [wrote()]], finished=Refused(ModelError("no")))
    with pytest.raises(ModelError):
        on_ray(tmp_path)


def test_no_more_than_three_attempts_and_the_others_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hangs = [begun("a", "b"), [Hung("image 3 took too long")]]
    dies, writes_b = [begun("a", "b"), [DEAD]], [begun("a", "b"), [wrote()], [DEAD]]
    ray = scripted(monkeypatch, hangs, hangs, dies, writes_b)
    notes: list[str] = []
    with pytest.raises(RankLostError, match="1 of 2 pending shards could not be written: 3 Ray actors") as caught:
        on_ray(tmp_path, notes, num_actors=1)
    hung = "image 3 took too long"
    assert notes == [
        f"a Ray actor ended while it wrote shard {shard} ({reason}), attempt {attempt} of 3"
        for shard, reason, attempt in (("a", hung, 1), ("b", hung, 1), ("a", GONE, 2), ("a", GONE, 3))
    ]
    assert caught.value.lines[0] == f"  a: {GONE}"
    assert len(ray.actors) == 4


def test_idle_actors_that_went_with_a_machine_cost_a_shard_no_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four of a machine idle while a fifth writes the only shard; the machine is lost."""
    idle = [begun("a"), [DEAD]]
    ray = scripted(monkeypatch, idle, idle, idle, idle, [begun("a"), [wrote()]])
    plain = ray.wait

    def wait(streams: list[object], **_: object) -> object:
        # The shard's is looked at when all others have become idle.
        if len(ray.actors) == 4 and len(streams) == 1:
            for actor in ray.actors:
                actor.is_gone = True
        return plain(streams)

    monkeypatch.setattr(ray, "wait", wait)
    notes: list[str] = []
    assert on_ray(tmp_path, notes, num_actors=4).num_shards == 1
    assert notes == [f"a Ray actor ended while it wrote shard a ({GONE}), attempt 1 of 3"]


def test_a_slow_start_is_said_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ray = scripted(monkeypatch, [begun("a"), [wrote()]])
    plain, waits = ray.wait, iter(range(3))
    monkeypatch.setattr(
        ray, "wait", lambda streams, **_: ([], streams) if next(waits, None) is not None else plain(streams)
    )
    monkeypatch.setattr("kdcache.teacher.ray.driver._SLOW_START_S", 0.0)
    notes: list[str] = []
    on_ray(tmp_path, notes)
    assert notes == ["no Ray actor is ready yet: 2 load the teacher, or wait for resources"]
