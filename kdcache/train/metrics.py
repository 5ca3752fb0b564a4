"""Metrics of a run: one JSON object a line, always; TensorBoard beside it when asked."""

import json
import os
from pathlib import Path
from typing import Any

from kdcache.durable import storage_errors
from kdcache.errors import MissingExtraError


class MetricsLog:
    """Appends to ``metrics.jsonl``; a resumed run continues the file exactly where its checkpoint was taken.

    Args:
        folder: The run folder.
        tensorboard: Whether to write events as well.
        size_bytes: Length to cut an existing file to; lines after a checkpoint are written again by the resumed run.

    Raises: MissingExtraError.

    Attributes:
        num_lost_bytes: How many bytes before the checkpoint are gone: somebody removed or cut the file.
    """

    def __init__(self, folder: Path, *, tensorboard: bool, size_bytes: int) -> None:
        self._path = folder / "metrics.jsonl"
        self._writer: Any = _open_tensorboard(folder / "tensorboard") if tensorboard else None
        with storage_errors(self._path, "open"):
            self._file = self._path.open("ab+")
            held = self._file.seek(0, os.SEEK_END)
            self.num_lost_bytes = max(size_bytes - held, 0)
            if self.num_lost_bytes:
                self._file.seek(0)
                # Only whole lines are kept; growing the file to its old length would fill it with zeros.
                size_bytes = self._file.read().rfind(b"\n") + 1
            self._file.truncate(size_bytes)

    def write(self, kind: str, step: int, values: dict[str, Any]) -> None:
        """Add one line.

        Args:
            kind: step, eval or epoch.
            step: Optimizer steps finished.
            values: Plain numbers and strings.
        """
        line = json.dumps({"kind": kind, "step": step, **values}).encode("ascii") + b"\n"
        with storage_errors(self._path, "write", needed_bytes=len(line)):
            self._file.write(line)
            self._file.flush()
        if self._writer is not None:
            for name, value in values.items():
                if isinstance(value, int | float) and not isinstance(value, bool):
                    self._writer.add_scalar(f"{kind}/{name}", value, step)

    def sync(self) -> int:
        """Make all lines durable and return the file's length in bytes."""
        with storage_errors(self._path, "flush"):
            self._file.flush()
            os.fsync(self._file.fileno())
        return self._file.seek(0, os.SEEK_END)

    def close(self) -> None:
        """Close the files."""
        self._file.close()
        if self._writer is not None:
            self._writer.close()


def read_metrics(folder: Path, kind: str) -> list[dict[str, Any]]:
    """All lines of one kind, in order; a last line cut by a crash is left out."""
    path = folder / "metrics.jsonl"
    if not path.is_file():
        return []
    lines = path.read_bytes().split(b"\n")[:-1]
    return [entry for entry in map(json.loads, lines) if entry["kind"] == kind]


def _open_tensorboard(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard.writer import SummaryWriter
    except ImportError:
        raise MissingExtraError(
            "tensorboard is not installed; install it with pip install 'kdcache[tensorboard]', or leave out "
            "tensorboard=true"
        ) from None
    return SummaryWriter(str(folder))
