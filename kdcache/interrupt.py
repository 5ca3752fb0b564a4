"""Ctrl-C and SIGTERM as a request: finish the unit of work, save, leave. A second one leaves at once."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StopRequest:
    """Whether somebody asked this process to stop.

    Attributes:
        signal_number: The signal received, or None.
    """

    def __init__(self) -> None:
        self.signal_number: int | None = None

    def __bool__(self) -> bool:
        return self.signal_number is not None


@contextmanager
def graceful_stop() -> Iterator[StopRequest]:
    """While the block runs, the first SIGINT or SIGTERM only sets the request; handlers are restored afterwards.

    Outside the main thread, where Python allows no handlers, the request is simply never set.
    """
    request = StopRequest()
    previous: dict[int, object] = {}

    def remember(number: int, _frame: FrameType | None) -> None:
        request.signal_number = number
        for each, handler in previous.items():
            signal.signal(each, handler)  # pyright: ignore[reportArgumentType]

    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            previous[number] = signal.signal(number, remember)
    except ValueError:
        yield request
        return
    try:
        yield request
    finally:
        for each, handler in previous.items():
            signal.signal(each, handler)  # pyright: ignore[reportArgumentType]
