"""Where everything lies below a cache folder."""

import re
from dataclasses import dataclass
from pathlib import Path

SAMPLES = "samples"
INDEX = "index"
LEDGER = "ledger"
JOB = "job"
RESERVED_NAMES = (SAMPLES, INDEX, LEDGER, JOB)
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,79}")
_EXTENSION = {INDEX: "h5", LEDGER: "json"}


def is_safe_name(name: str) -> bool:
    """Whether a column or shard name is one plain path component."""
    return _NAME.fullmatch(name) is not None


def shard_name(split: str, number: int) -> str:
    """``train-000007`` for split ``train`` and shard 7."""
    return f"{split}-{number:06d}"


@dataclass(frozen=True)
class CachePaths:
    """The paths of one cache.

    Args:
        root: The cache folder.
    """

    root: Path

    @property
    def manifest(self) -> Path:
        """Written last."""
        return self.root / "manifest.json"

    @property
    def manifest_digest(self) -> Path:
        """The manifest's sha256, written just before it."""
        return self.root / "manifest.sha256"

    @property
    def job(self) -> Path:
        """What only a running extraction needs: plan, lock, attempts. Readers never look inside."""
        return self.root / JOB

    def shard(self, part: str, name: str) -> Path:
        """The file of one shard in ``samples``, ``index``, ``ledger`` or a column."""
        return self.root / part / f"{name}.{_EXTENSION.get(part, 'tar')}"
