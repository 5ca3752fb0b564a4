"""Things opened on demand and kept at hand: each is opened once, whoever asks, and let go when there is no room."""

import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, Protocol, TypeVar

from kdcache.stream.files import KeepOn


class Kept(Protocol):
    """What can be kept."""

    @property
    def mapped_bytes(self) -> int:
        """Memory that is mapped while it is kept."""
        ...


Thing = TypeVar("Thing", bound=Kept)


def weakly(method: Callable[[int, KeepOn | None], Thing]) -> Callable[[int, KeepOn | None], Thing]:
    """A bound method that does not keep its object alive; to be called only while somebody else does."""
    reference = weakref.WeakMethod(method)

    def call(number: int, keep_on: KeepOn | None) -> Thing:
        living = reference()
        assert living is not None
        return living(number, keep_on)

    return call


class Shelf(Generic[Thing]):
    """Opens things by number and keeps them; safe to use from several threads.

    Args:
        open_thing: Opens one; the second argument is None where it is needed at once, else whether to go on reading it
            into memory.
        max_mapped_bytes, max_open: Things are let go beyond these, the one used longest ago first. One always stays,
            and who still uses one keeps it alive.
    """

    def __init__(
        self, open_thing: Callable[[int, KeepOn | None], Thing], *, max_mapped_bytes: int | None, max_open: int
    ) -> None:
        self._open_thing = open_thing
        self._max_mapped_bytes, self._max_open = max_mapped_bytes, max_open
        self._things: OrderedDict[int, Thing] = OrderedDict()
        self._snapshot: dict[int, Thing] | None = None
        self._opening: dict[int, Future[Thing]] = {}
        self._lock = threading.Lock()

    def get(self, number: int, keep_on: KeepOn | None = None) -> Thing:
        """One thing, opened by whoever asks first while the others wait.

        Raises: what opening it raises; the next to ask tries again.
        """
        with self._lock:
            if number in self._things:
                self._things.move_to_end(number)
                return self._things[number]
            opening = self._opening.get(number)
            is_first = opening is None
            if opening is None:
                opening = self._opening[number] = Future()
        if is_first:
            try:
                thing = self._open_thing(number, keep_on)
            except BaseException as error:
                with self._lock:
                    del self._opening[number]
                opening.set_exception(error)
            else:
                with self._lock:
                    self._things[number] = thing
                    self._snapshot = None
                    del self._opening[number]
                    self._make_room()
                opening.set_result(thing)
        return opening.result()

    def has(self, number: int) -> bool:
        """Whether a thing is open; asking counts as using it."""
        with self._lock:
            if number in self._things:
                self._things.move_to_end(number)
                return True
            return False

    def snapshot(self) -> dict[int, Thing]:
        """All things that are open; the same object as long as nothing changes. Looking does not count as using."""
        with self._lock:
            if self._snapshot is None:
                self._snapshot = dict(self._things)
            return self._snapshot

    def _make_room(self) -> None:
        mapped = sum(thing.mapped_bytes for thing in self._things.values())
        for number in list(self._things)[:-1]:
            is_over_budget = self._max_mapped_bytes is not None and mapped > self._max_mapped_bytes
            if not is_over_budget and len(self._things) <= self._max_open:
                return
            mapped -= self._things.pop(number).mapped_bytes
