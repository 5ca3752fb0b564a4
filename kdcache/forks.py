"""Locks after a fork: a child has those that threads of its parent held, and no thread that would release them."""

import os
import weakref
from typing import Protocol


class Renewable(Protocol):
    """What can be made usable in a forked child."""

    def renew(self) -> None:
        """Replace locks, and forget the work of threads that only the parent has."""
        ...


_living: "weakref.WeakSet[Renewable]" = weakref.WeakSet()


def renew_after_fork(each: Renewable) -> None:
    """Have something renewed in every child that is forked while it is alive."""
    _living.add(each)


def _renew_all() -> None:
    for each in list(_living):
        each.renew()


os.register_at_fork(after_in_child=_renew_all)
