"""The driver of a teacher pass on Ray: shards to idle actors, and again the shard whose actor died."""

import math
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

from kdcache.distributed.env import worker_env
from kdcache.errors import RankLostError, UsageError
from kdcache.images import open_source
from kdcache.interrupt import StopRequest, graceful_stop
from kdcache.teacher.begin import OnSource
from kdcache.teacher.config import ExtractConfig
from kdcache.teacher.extract import ExtractReport, report, stopped
from kdcache.teacher.quarantine import MAX_ATTEMPTS
from kdcache.teacher.ray.actor import Event, Hung, Plan, Ready, Refused, ShardActor, Wrote
from kdcache.teacher.ray.cluster import Placement, RayCluster, connected, lost, lost_reason, placement
from kdcache.teacher.worker import Done, Progress

_LOOK_S = 1.0
_SLOW_START_S = 60.0
_ANSWER_S = 10.0


def extract_on_ray(
    config: ExtractConfig,
    cluster: RayCluster | None = None,
    *,
    on_source: OnSource | None = None,
    on_note: Callable[[str], None] = lambda _: None,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> ExtractReport:
    """Run the teacher pass on a Ray cluster: the bytes of `extract`, which can resume it and which it can resume.

    A shard is the unit: an idle actor gets the next one, that of an actor which died goes to another one. At the third
    attempt its images are tried one by one and those that kill the process are quarantined, as in one process; a shard
    that fails even so is named at the end, when all others are done.

    Args:
        config: As `extract` takes it; all machines must find its paths and packages, and `device` names no one GPU.
        cluster: Where; None for the cluster of RAY_ADDRESS, or one on this machine.
        on_source: Called with the images of a new cache, and no estimate.
        on_note: Called with what the user should know about the teacher, and with every actor that dies.
        on_progress: Called after every batch of any actor.

    Raises: any KdcacheError; finished shards are safe after each of them. MissingExtraError where Ray is not installed,
        RankLostError where actors died and what they did could not be done by others.
    """
    cluster = cluster or RayCluster()
    if (env := worker_env()).world_size > 1:
        raise UsageError(f"{env.text}; Ray starts its own workers: start one process, without torchrun or srun")
    with connected(cluster) as ray:
        if on_source is not None and config.data is not None and not config.add:
            on_source(open_source(config.data, config.source_rules), None)
        place = placement(ray, cluster, config.device, has_teacher=config.teacher is not None)
        driver = _Driver(ray, config, place, on_note, on_progress)
        with graceful_stop() as stop:
            try:
                return driver.run(stop)
            finally:
                driver.close()


@dataclass
class _Busy:
    """An actor at work.

    Attributes:
        actor: Ray's handle.
        shard: What it writes; None while it loads the teacher or plans.
        num_records: Views of that so far.
    """

    actor: Any
    shard: str | None = None
    num_records: int = 0


@final
class _Driver:
    def __init__(
        self,
        ray: Any,
        config: ExtractConfig,
        place: Placement,
        on_note: Callable[[str], None],
        on_progress: Callable[[Progress], None],
    ) -> None:
        self._ray, self._on_note, self._on_progress = ray, on_note, on_progress
        self._num_actors = place.num_actors
        # What is given to it again, and how often, is decided here and not by Ray.
        options = {"max_restarts": 0, "max_task_retries": 0, "scheduling_strategy": "SPREAD", **place.resources}
        kind = ray.remote(**options)(ShardActor)
        arguments = (replace(config, device=place.device), f"ray:{uuid.uuid4()}", Path.cwd())
        self._new_actor: Callable[[], Any] = lambda: kind.remote(*arguments)
        self._idle: list[Any] = []
        self._busy: dict[Any, _Busy] = {}
        # The first actor that is ready plans for all.
        self._plan: Plan | None = None
        self._is_planning = False
        self._pending: deque[str] = deque()
        self._deaths: Counter[str] = Counter()
        self._failed: dict[str, str] = {}
        # Views of shards that are done, whoever did them; bad images.
        self._num_finished, self._num_bad = 0, 0
        self._done = Done()

    def run(self, stop: StopRequest) -> ExtractReport:
        """The whole pass."""
        began = time.perf_counter()
        for _ in range(self._num_actors):
            self._start()
        note_at = began + _SLOW_START_S
        while self._plan is None and not stop:
            self._await_event()
            if self._plan is None and time.perf_counter() > note_at:
                note_at = math.inf
                self._on_note(f"no Ray actor is ready yet: {self._num_actors} load the teacher, or wait for resources")
        began = time.perf_counter()
        while self._is_writing or (self._pending and not stop):
            while self._idle and self._pending and not stop:
                self._give(self._idle.pop(), self._pending.popleft())
            self._await_event()
        self._done.seconds = time.perf_counter() - began
        if stop:
            num_pending = len(self._plan.pending) if self._plan is not None else 0
            raise stopped(stop.signal_number, self._done.num_shards, num_pending)
        if self._failed:
            raise self._unfinished()
        return self._finish()

    def close(self) -> None:
        """End all actors; those that are idle release the cache first."""
        closing = [actor.close.remote() for actor in self._idle]
        if closing:
            self._ray.wait(closing, num_returns=len(closing), timeout=_ANSWER_S)
        for actor in (*self._idle, *(busy.actor for busy in self._busy.values())):
            self._ray.kill(actor)

    @property
    def _is_writing(self) -> bool:
        return any(busy.shard is not None for busy in self._busy.values())

    def _start(self) -> None:
        actor = self._new_actor()
        self._busy[actor.begin.options(num_returns="streaming").remote()] = _Busy(actor)

    def _give(self, actor: Any, shard: str) -> None:
        stream = actor.extract.options(num_returns="streaming").remote(shard, self._num_bad)
        self._busy[stream] = _Busy(actor, shard)

    def _await_event(self) -> None:
        """Wait a moment for one event of any actor, and act on it."""
        ready, _ = self._ray.wait(list(self._busy), num_returns=1, timeout=_LOOK_S)
        for stream in ready:
            try:
                event: Event = self._ray.get(next(stream))
            except self._ray.exceptions.RayTaskError:
                raise
            except self._ray.exceptions.RayError as error:
                self._lose(self._busy.pop(stream), lost_reason(error))
            else:
                self._take(stream, event)

    def _take(self, stream: Any, event: Event) -> None:
        if isinstance(event, Progress):
            self._busy[stream].num_records = event.num_records
            self._show(event.bottleneck)
            return
        if isinstance(event, Refused):
            raise event.error
        busy = self._busy.pop(stream)
        if isinstance(event, Hung):
            self._lose(busy, event.reason)
            return
        if isinstance(event, Ready) and not self._is_planning:
            self._is_planning = True
            for note in event.notes:
                self._on_note(note)
            self._busy[busy.actor.plan.options(num_returns="streaming").remote()] = _Busy(busy.actor)
            return
        self._idle.append(busy.actor)
        if isinstance(event, Plan):
            self._plan, self._num_bad = event, event.num_bad
            self._pending.extend(event.pending)
        elif isinstance(event, Wrote):
            self._count(busy, event)

    def _count(self, busy: _Busy, wrote: Wrote) -> None:
        assert self._plan is not None and busy.shard is not None, "it was given a shard"
        self._num_finished += self._plan.pending[busy.shard]
        self._num_bad += wrote.num_bad
        self._done.add(wrote.done)
        self._show(wrote.done.times.bottleneck)

    def _show(self, bottleneck: str) -> None:
        assert self._plan is not None, "no actor gets a shard before"
        num_records = self._num_finished + sum(busy.num_records for busy in self._busy.values())
        self._on_progress(Progress(num_records, sum(self._plan.pending.values()), self._num_bad, bottleneck))

    def _lose(self, busy: _Busy, reason: str) -> None:
        """An actor is gone; its shard is another's, until it has been tried often enough."""
        self._ray.kill(busy.actor)
        # A machine that is lost takes idle ones along; they would cost a shard its attempts.
        self._idle = [actor for actor in self._idle if self._is_alive(actor)]
        if busy.shard is None:
            if self._plan is None or not (self._busy or self._idle):
                raise lost("while it loaded the teacher", reason)
            self._on_note(f"a Ray actor ended while it loaded the teacher ({reason}); the others go on")
            return
        self._deaths[busy.shard] += 1
        count = f"attempt {self._deaths[busy.shard]} of {MAX_ATTEMPTS}"
        self._on_note(f"a Ray actor ended while it wrote shard {busy.shard} ({reason}), {count}")
        if self._deaths[busy.shard] < MAX_ATTEMPTS:
            self._pending.append(busy.shard)
        else:
            self._failed[busy.shard] = reason
        if self._pending:
            self._start()

    def _is_alive(self, actor: Any) -> bool:
        try:
            self._ray.get(actor.ping.remote(), timeout=_ANSWER_S)
        except self._ray.exceptions.RayError:
            self._ray.kill(actor)
            return False
        return True

    def _unfinished(self) -> RankLostError:
        assert self._plan is not None, "nothing has failed before"
        num_failed, num_pending = len(self._failed), len(self._plan.pending)
        return RankLostError(
            f"{num_failed} of {num_pending} pending shards could not be written: {MAX_ATTEMPTS} Ray actors, one after "
            f"the other, ended over each. The other {num_pending - num_failed} are safe:",
            lines=[
                *(f"  {shard}: {reason}" for shard, reason in sorted(self._failed.items())),
                "Look for what ends the process (memory?), then run the same command again to try these shards again",
            ],
        )

    def _finish(self) -> ExtractReport:
        assert self._plan is not None, "an actor was ready"
        try:
            finished = self._ray.get(self._idle[-1].finish.remote(self._done, bool(self._deaths)))
        except self._ray.exceptions.RayTaskError:
            raise
        except self._ray.exceptions.RayError as error:
            raise lost("while it wrote the manifests", lost_reason(error)) from None
        if isinstance(finished, Refused):
            raise finished.error
        return report(self._done, finished, num_skipped=self._plan.num_skipped)
