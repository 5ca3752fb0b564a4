"""As much of Ray as the driver uses, with actors that follow a script: for deaths at moments that no test can hit."""

from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

from kdcache.teacher.ray.actor import Event, Plan, Ready, Wrote
from kdcache.teacher.worker import Done


class RayError(Exception):
    """Of an actor that is gone."""


class RayTaskError(RayError):
    """Of a bug in an actor."""


def wrote() -> Wrote:
    return Wrote(Done(num_shards=1, num_records=8), 0)


def begun(*shards: str) -> list[Event | Exception]:
    """The script of an actor that is ready; these are pending should it be the first one."""
    return [Ready([]), Plan(dict.fromkeys(shards, 8), 0, 0)]


class _Method:
    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call

    def options(self, **_: object) -> "_Method":
        return self

    def remote(self, *arguments: object) -> Any:
        return self._call(*arguments)


class FakeActor:
    """An actor that says what its script has, one entry for `begin` and one for each shard; then the last one again."""

    def __init__(self, script: Sequence[Sequence[Event | Exception]], finished: object) -> None:
        self._script = list(script)
        self.is_killed, self.is_gone = False, False
        self._plan: list[Event | Exception] = []
        self.begin, self.plan = _Method(self._begin), _Method(lambda: iter(self._plan))
        self.extract = _Method(self._next)
        self.finish = _Method(lambda *_: finished)
        self.ping = _Method(lambda: RayError("gone") if self.is_gone else None)
        self.close = _Method(lambda: None)

    def _begin(self) -> Iterator[Event | Exception]:
        first, *self._plan = self._script.pop(0) if len(self._script) > 1 else self._script[0]
        return iter([first])

    def _next(self, *_: object) -> Iterator[Event | Exception]:
        events = self._script.pop(0) if len(self._script) > 1 else self._script[0]
        return iter(list(events))


class FakeRay:
    """The module.

    Args:
        scripts: Of the actors, in the order in which they are started; the last one for all that follow.
        finished: What `finish` returns.
    """

    exceptions = SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError)

    def __init__(self, *scripts: Sequence[Sequence[Event | Exception]], finished: object = None) -> None:
        self._scripts, self._finished = list(scripts), finished
        self.actors: list[FakeActor] = []

    def remote(self, **_: object) -> Callable[[object], Any]:
        return lambda _: SimpleNamespace(remote=self._started)

    def _started(self, *_: object) -> FakeActor:
        script = self._scripts.pop(0) if len(self._scripts) > 1 else self._scripts[0]
        self.actors.append(FakeActor(script, self._finished))
        return self.actors[-1]

    def wait(self, streams: list[Any], **_: object) -> tuple[list[Any], list[Any]]:
        assert streams, "Ray refuses to wait for nothing"
        return streams[:1], streams[1:]

    def get(self, value: object, timeout: float | None = None) -> Any:
        if isinstance(value, Exception):
            raise value
        return value

    def kill(self, actor: FakeActor) -> None:
        actor.is_killed = True

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 8.0}

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": True, "Resources": {"CPU": 8.0}}]
