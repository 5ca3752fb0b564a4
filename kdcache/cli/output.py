"""What is printed reaches a terminal escaped, and no closed terminal or pipe stops the work."""

import contextlib
import os
import re
import sys
from collections.abc import Generator, Mapping, Sequence
from typing import Any, TextIO, cast, final

from kdcache.errors import one_line

# All that steers a terminal or the direction of text, but newlines and tabs; and what no encoding can write.
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_STANDARD_DESCRIPTORS = (0, 1, 2)


def printable(text: str) -> str:
    r"""Text with control characters as escapes (``\x1b``); newlines and tabs stay."""
    return _UNPRINTABLE.sub(lambda match: ascii(match[0])[1:-1], text)


@final
class SafeOutput:
    """A text stream whose text is escaped, and which drops text when nobody can take it any more.

    Args:
        stream: Where to; None for one that was closed before the program began.
        escape: False for a writer that means to steer the terminal.
        names: What is printed in place of some names.
    """

    def __init__(self, stream: TextIO | None, *, escape: bool = True, names: Mapping[str, str] | None = None) -> None:
        self._stream, self._escape, self._names = stream, escape, names or {}

    def write(self, text: str) -> int:
        """Write text; a carriage return in front of it may stay, as progress bars of others have one."""
        if self._stream is None:
            return len(text)
        shown = text
        if self._escape:
            for name, escaped in self._names.items():
                shown = shown.replace(name, escaped)
            shown = "\r" * shown.startswith("\r") + printable(shown.removeprefix("\r"))
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        shown = shown.encode(encoding, "backslashreplace").decode(encoding)
        try:
            self._stream.write(shown)
        except (OSError, ValueError):
            self._give_up()
        return len(text)

    def flush(self) -> None:
        """Hand on what is buffered."""
        try:
            if self._stream is not None:
                self._stream.flush()
        except (OSError, ValueError):
            self._give_up()

    def unescaped(self) -> "SafeOutput":
        """The same for a writer that means to steer the terminal."""
        return SafeOutput(self._stream, escape=False)

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return self._stream is not None and self._stream.isatty()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _give_up(self) -> None:
        """What is still buffered is written to nowhere when the interpreter ends, and does not fail then."""
        if self._stream is not None:
            with contextlib.suppress(OSError, ValueError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self._stream.fileno())
                os.close(nowhere)
            self._stream = None


@contextlib.contextmanager
def safe_output(words: Sequence[str] = ()) -> Generator[None]:
    """Print through SafeOutput while the block runs.

    Args:
        words: Of the command line: a name among them may hold newlines, which are escaped wherever it is printed.
    """
    # A name may be the whole word, or stand behind the flag's equals sign.
    named = sorted({part for word in words for part in (word, word.partition("=")[2])}, key=len, reverse=True)
    names = {name: one_line(name) for name in named if "\n" in name or "\t" in name}
    for descriptor in _STANDARD_DESCRIPTORS:
        try:
            os.fstat(descriptor)
        except OSError:  # closed: the next file to be opened would be written to by whoever prints
            os.open(os.devnull, os.O_RDWR)
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (cast("TextIO", SafeOutput(stream, names=names)) for stream in before)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        sys.stdout, sys.stderr = before
