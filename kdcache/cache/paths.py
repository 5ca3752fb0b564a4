"""The paths of everything below a cache folder."""

import re
from dataclasses import dataclass
from pathlib import Path

from kdcache.remote.folder import RemoteFolder
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
        root: The cache folder, or the folder of a group in it. Of a cache on object storage a folder here that holds
            its manifests, and what is being written.
        remote: Where it lies on object storage, if it does.
    """

    root: Path
    remote: RemoteFolder | None = None

    def __str__(self) -> str:
        return str(self.remote or self.root)

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
        return CachePaths(self.root / name, None if self.remote is None else self.remote / name)

    def where(self, path: Path) -> str:
        """A file of this base or group as its user knows it."""
        return str(path) if self.remote is None else str(self.remote.url / self.object_name(path))

    def object_name(self, path: Path) -> str:
        """A file's name on object storage, below that of the base or group."""
        return path.relative_to(self.root).as_posix()

    def finished(self) -> set[str]:
        """Names of the shards that have an index: it is written last."""
        if self.remote is not None:
            return {name.removesuffix(".h5") for name in self.remote.entries(INDEX) if name.endswith(".h5")}
        return {path.stem for path in entries(self.root / INDEX, suffix=".h5")}

    def size_bytes(self, part: str, name: str) -> int | None:
        """Size of the file of a shard, here or on object storage; None if it is not there."""
        path = self.shard(part, name)
        if path.is_file():
            return path.stat().st_size
        found = None if self.remote is None else self.remote.entries(part).get(path.name)
        return None if found is None else found.size_bytes

    def files(self, part: str) -> list[Path]:
        """The files of a part, named or not, as if they were here."""
        if self.remote is not None:
            return [self.root / part / name for name in sorted(self.remote.entries(part))]
        return entries(self.root / part)

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
