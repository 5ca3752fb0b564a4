"""Showing how far something is: a bar on a terminal, a line now and then elsewhere."""

import sys
import time
from types import TracebackType
from typing import Any, TextIO, cast

from kdcache.cli.output import SafeOutput

_SECONDS_BETWEEN_LINES = 10.0


class ProgressReporter:
    """Use as a context manager around the work.

    Args:
        title: What is being done.
        unit: What is counted.
        visible: False shows nothing (other ranks, --json).
    """

    def __init__(self, title: str, unit: str, *, visible: bool = True) -> None:
        self._title, self._unit, self._visible = title, unit, visible
        self._bar: Any = None
        self._task: Any = None
        self._last_line = self._started = time.monotonic()
        self._shown = -1

    def update(self, done: int, total: int, note: str) -> None:
        """Show that `done` of `total` are done.

        Args:
            done: So far.
            total: In all.
            note: What else is worth knowing, for example the bottleneck; may be empty.
        """
        if not self._visible:
            return
        if self._bar is not None:
            if self._task is None:
                self._task = self._bar.add_task(self._title, total=total, note=_behind(note))
            self._bar.update(self._task, completed=done, total=total, note=_behind(note))
            return
        now = time.monotonic()
        is_last = done == total and self._shown != total
        if now - self._last_line >= _SECONDS_BETWEEN_LINES or is_last:
            self._last_line, self._shown = now, done
            rate = done / max(now - self._started, 1e-9)
            text = f"{self._title}: {done}/{total} {self._unit}, {rate:.1f}/s{_behind(note)}"
            print(text, file=sys.stderr, flush=True)

    def note(self, text: str) -> None:
        """Print one line that stays."""
        if self._bar is not None:
            self._bar.console.print(text)
        elif self._visible:
            print(text, file=sys.stderr, flush=True)

    def __enter__(self) -> "ProgressReporter":
        if self._visible and sys.stderr.isatty():
            # Loading rich takes as long as everything else here together; pipes and logs do not need it.
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            # The bar moves the cursor; all else that is printed is escaped.
            stream = sys.stderr.unescaped() if isinstance(sys.stderr, SafeOutput) else sys.stderr
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn(f"{self._unit}{{task.fields[note]}}"),
                TimeRemainingColumn(),
                console=Console(file=cast("TextIO", stream)),
            )
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()


def _behind(note: str) -> str:
    return f", {note}" if note else ""
