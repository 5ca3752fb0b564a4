"""The paths of everything below a cache folder."""

import re
from dataclasses import dataclass
from pathlib import Path

from kdcache.storage import entries

SAMPLES = "samples"
INDEX = "index"
LEDGER = "ledger"
JOB = "job"
PIXELS = "pixels"
# A group lies beside the parts of the base, a column beside the parts of its group: neither may take their names.
RESERVED_NAMES = (SAMPLES, INDEX, LEDGER, JOB)
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,79}")
_EXTENSION = {INDEX: "h5", LEDGER: "json"}


def is_safe_name(name: str) -> bool:
    """Whether a group, column or shard name is one plain path component."""
    return _NAME.fullmatch(name) is not None


def safe_name(text: str) -> str:
    """The nearest name that `is_safe_name` accepts: ``cait_s24_224`` gives ``cait-s24-224``."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:80] or "x"


def shard_name(split: str, number: int) -> str:
    """``train-000007`` for split ``train`` and shard 7."""
    return f"{split}-{number:06d}"


@dataclass(frozen=True)
class CachePaths:
    """The paths of a base, or of one of its column groups: both have a manifest, a job, an index and shards.

    Args:
        root: The cache folder, or the folder of a group in it.
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

    def group(self, name: str) -> "CachePaths":
        """The paths of a column group of this base."""
        return CachePaths(self.root / name)

    def group_names(self) -> list[str]:
        """Names of the groups here, finished or not, in alphabetical order."""
        return [
            path.name
            for path in entries(self.root)
            if path.is_dir()
            and not path.is_symlink()
            and is_safe_name(path.name)
            and path.name not in RESERVED_NAMES
            and ((path / "manifest.json").is_file() or (path / JOB).is_dir())
        ]
