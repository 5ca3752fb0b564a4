"""Metrics of a run: one JSON object a line, always; TensorBoard beside it when asked."""

import json
import os
from pathlib import Path
from typing import Any

from kdcache.durable import storage_errors
from kdcache.errors import MissingExtraError, Remedy, RunMismatchError


class MetricsLog:
    """Appends to ``metrics.jsonl``; a resumed run continues the file exactly where its checkpoint was taken.

    Args:
        folder: The run folder.
        tensorboard: Whether to write events as well.
        size_bytes: Length to cut an existing file to; lines after a checkpoint are written again by the resumed run.

    Raises: MissingExtraError.

    Attributes:
        num_lost_bytes: How many bytes before the checkpoint are gone: somebody removed, cut or damaged the file.
    """

    def __init__(self, folder: Path, *, tensorboard: bool, size_bytes: int) -> None:
        self._path = folder / "metrics.jsonl"
        self._writer: Any = _open_tensorboard(folder / "tensorboard") if tensorboard else None
        with storage_errors(self._path, "open"):
            self._file = self._path.open("ab+")
            self._file.seek(0)
            # Whole lines alone are kept; growing the file to its old length would fill it with zeros.
            kept = [line for line in self._file.read(size_bytes).splitlines(keepends=True) if _entry(line) is not None]
            self.num_lost_bytes = size_bytes - sum(map(len, kept))
            self._file.truncate(0 if self.num_lost_bytes else size_bytes)
            if self.num_lost_bytes:
                self._file.write(b"".join(kept))

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
    """All lines of one kind, in order; a last line cut by a crash is left out.

    Raises: RunMismatchError naming a line that is no entry.
    """
    path = folder / "metrics.jsonl"
    if not path.is_file():
        return []
    entries = [_entry(line) for line in path.read_bytes().split(b"\n")[:-1]]
    if None in entries:
        raise RunMismatchError(
            f"{path}: line {entries.index(None) + 1} is damaged; resuming the run drops it, and says so",
            remedy=Remedy.RESTORE_FILE,
        )
    return [entry for entry in entries if entry is not None and entry["kind"] == kind]


def _entry(line: bytes) -> dict[str, Any] | None:
    """What `write` made a line of; None for anything else."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    is_entry = isinstance(entry, dict) and isinstance(entry.get("kind"), str) and isinstance(entry.get("step"), int)
    return entry if is_entry else None


def _open_tensorboard(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard.writer import SummaryWriter
    except ImportError:
        raise MissingExtraError(
            "tensorboard is not installed; install it with pip install 'kdcache[tensorboard]', or leave out "
            "tensorboard=true"
        ) from None
    return SummaryWriter(str(folder))
