"""Cancelling background work: a token that is asked between two pieces of the work."""

from typing import final


class Cancelled(Exception):
    """Background work was cancelled; whoever waits for its result never sees this."""


@final
class CancelToken:
    """Whether background work has been cancelled; any thread may cancel, any number may ask."""

    def __init__(self) -> None:
        self._cancelled = False

    @property
    def cancelled(self) -> bool:
        """Whether `cancel` was called."""
        return self._cancelled

    def cancel(self) -> None:
        """Ask for an end; it stays asked for."""
        self._cancelled = True

    def check(self) -> None:
        """Raises: Cancelled after `cancel`."""
        if self._cancelled:
            raise Cancelled
