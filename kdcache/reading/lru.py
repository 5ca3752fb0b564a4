"""A cache of open shards: each is opened once, whoever asks; the least recently used go when there is no room."""

import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, Protocol, TypeVar, final

from kdcache.cancel import CancelToken
from kdcache.forks import renew_after_fork


class Mapped(Protocol):
    """What can be cached."""

    @property
    def mapped_bytes(self) -> int:
        """Memory that is mapped while it is cached."""
        ...


Value = TypeVar("Value", bound=Mapped)


def weakly(method: Callable[[int, CancelToken | None], Value]) -> Callable[[int, CancelToken | None], Value]:
    """A bound method that does not keep its object alive; to be called only while somebody else does."""
    reference = weakref.WeakMethod(method)

    def call(number: int, cancel: CancelToken | None) -> Value:
        living = reference()
        assert living is not None
        return living(number, cancel)

    return call


@final
class LRUCache(Generic[Value]):
    """Opens values by number and keeps them; safe to use from several threads.

    Args:
        open_value: Opens one; the second argument is None where the value is needed at once, else it is also read into
            memory until the token is cancelled.
        max_mapped_bytes, max_open: Beyond these the least recently used values are dropped. One always stays, and
            whoever still uses one keeps it alive.
    """

    def __init__(
        self, open_value: Callable[[int, CancelToken | None], Value], *, max_mapped_bytes: int | None, max_open: int
    ) -> None:
        self._open_value = open_value
        self._max_mapped_bytes, self.max_open = max_mapped_bytes, max_open
        self._values: OrderedDict[int, Value] = OrderedDict()
        self._snapshot: dict[int, Value] | None = None
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """See Renewable: what threads of another process were opening is opened again."""
        self._opening: dict[int, Future[Value]] = {}
        self._lock = threading.Lock()

    def get(self, number: int, cancel: CancelToken | None = None) -> Value:
        """One value, opened by whoever asks first while the others wait.

        Raises: what opening it raises; the next to ask tries again.
        """
        with self._lock:
            if number in self._values:
                self._values.move_to_end(number)
                return self._values[number]
            opening = self._opening.get(number)
            is_first = opening is None
            if opening is None:
                opening = self._opening[number] = Future()
        if is_first:
            try:
                value = self._open_value(number, cancel)
            except BaseException as error:
                with self._lock:
                    del self._opening[number]
                opening.set_exception(error)
            else:
                with self._lock:
                    self._values[number] = value
                    self._snapshot = None
                    del self._opening[number]
                    self._make_room()
                opening.set_result(value)
        return opening.result()

    def has(self, number: int) -> bool:
        """Whether a value is open; asking counts as using it."""
        with self._lock:
            if number in self._values:
                self._values.move_to_end(number)
                return True
            return False

    def snapshot(self) -> dict[int, Value]:
        """All values that are open; the same object as long as nothing changes. Looking does not count as using."""
        with self._lock:
            if self._snapshot is None:
                self._snapshot = dict(self._values)
            return self._snapshot

    def _make_room(self) -> None:
        mapped = sum(value.mapped_bytes for value in self._values.values())
        for number in list(self._values)[:-1]:
            is_over_budget = self._max_mapped_bytes is not None and mapped > self._max_mapped_bytes
            if not is_over_budget and len(self._values) <= self.max_open:
                return
            mapped -= self._values.pop(number).mapped_bytes
