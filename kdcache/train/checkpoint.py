"""Checkpoints that are whole or absent, hashed, and never trusted unseen."""

import io
import re
from pathlib import Path
from typing import Any

import torch

from kdcache.durable import NewFile, make_folder, remove_stale_temporaries, sha256_file, write_file
from kdcache.errors import RunMismatchError
from kdcache.storage import entries

_FOLDER = "checkpoints"
_NAME = re.compile(r"step-(\d{9})\.pt")


class Checkpoints:
    """The checkpoints of a run folder: ``checkpoints/step-000000120.pt``, each with its sha256 beside it.

    Args:
        folder: The run folder.
        keep: How many to keep.
    """

    def __init__(self, folder: Path, *, keep: int) -> None:
        self.folder = folder / _FOLDER
        self._keep = keep
        make_folder(self.folder)
        remove_stale_temporaries(self.folder)

    def save(self, step: int, state: dict[str, Any]) -> Path:
        """Write a checkpoint durably, then drop the oldest beyond the number to keep.

        Args:
            step: Optimizer steps finished.
            state: Tensors and plain values; must load with weights_only.

        Raises: DiskFullError; earlier checkpoints are safe.
        """
        path = self.folder / f"step-{step:09d}.pt"
        buffer = io.BytesIO()
        torch.save(state, buffer)
        with NewFile(path, replace=True) as file:
            file.write(buffer.getbuffer())
            # The digest goes first: a checkpoint without one was never finished.
            write_file(_digest_path(path), file.sha256.encode() + b"\n")
            file.commit()
        for old in self.paths()[: -self._keep]:
            old.unlink()
            _digest_path(old).unlink(missing_ok=True)
        return path

    def paths(self) -> list[Path]:
        """All checkpoints, oldest first."""
        return _paths_in(self.folder)

    def load_latest(self, warn: Any = lambda _: None) -> dict[str, Any] | None:
        """The newest checkpoint whose hash is right; None when there are none at all.

        Args:
            warn: Called with a sentence for each damaged checkpoint that is passed over.

        Raises: RunMismatchError when there are checkpoints but none is whole.
        """
        paths = self.paths()
        for path in reversed(paths):
            if (state := _read(path)) is not None:
                return state
            warn(f"{path}: damaged (its sha256 is not the one recorded); going back to the checkpoint before it")
        if paths:
            raise RunMismatchError(
                f"{self.folder}: none of the {len(paths)} checkpoints is whole; restore one, or train into another "
                "folder"
            )
        return None


def checkpoint_paths(run: Path) -> list[Path]:
    """The checkpoints in a run folder, oldest first; none where there is no such folder."""
    folder = run / _FOLDER
    return _paths_in(folder) if folder.is_dir() else []


def checkpoint_step(path: Path) -> int:
    """Optimizer steps finished at a checkpoint, from its name."""
    return int(path.stem.removeprefix("step-"))


def read_checkpoint(path: Path) -> dict[str, Any]:
    """One checkpoint.

    Raises: RunMismatchError when it is damaged.
    """
    state = _read(path)
    if state is None:
        raise RunMismatchError(f"{path}: damaged (its sha256 is not the one recorded); delete it or restore it")
    return state


def _paths_in(folder: Path) -> list[Path]:
    return [path for path in entries(folder) if _NAME.fullmatch(path.name)]


def _read(path: Path) -> dict[str, Any] | None:
    """The state in a checkpoint, None if it is not the file whose hash was recorded."""
    digest = _digest_path(path)
    if digest.is_file() and digest.read_text("ascii", "replace").strip() == sha256_file(path):
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except Exception:  # unpickling is refused, or fails, in many ways
            raise RunMismatchError(
                f"{path}: holds more than tensors and plain values, so that kdcache did not write it and does not load "
                "it; delete it or restore it"
            ) from None
    return None


def _digest_path(path: Path) -> Path:
    return path.with_suffix(".sha256")
