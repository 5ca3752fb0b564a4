"""An extraction as the cache sees it: one plan, a list of shards, and the manifest once all of them are done."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kdcache.cache.ecosystem import write_ecosystem_files
from kdcache.cache.index import ShardIndex, read_index
from kdcache.cache.lock import JobLock
from kdcache.cache.manifest import (
    ColumnSummary,
    FileFacts,
    Fingerprint,
    Manifest,
    ShardFacts,
    differences,
    fingerprint_bytes,
    read_fingerprint,
    read_manifest,
    write_manifest,
)
from kdcache.cache.paths import INDEX, LEDGER, CachePaths, shard_name
from kdcache.cache.statistics import Fidelity, TokenStatistics, merged
from kdcache.cache.writer import BadSample, ShardWriter
from kdcache.durable import make_folder, remove_stale_temporaries, write_file
from kdcache.errors import CacheMismatchError, CorruptCacheError, IncompleteCacheError
from kdcache.strict_json import dump_json, load_json


@dataclass(frozen=True)
class PlannedShard:
    """One unit of work.

    Args:
        name: Shard name.
        first: Position of its first image in the cache's order.
        num_samples: Images planned.
    """

    name: str
    first: int
    num_samples: int


class CacheJob:
    """The right to write to a cache, held until `close`.

    Opening it takes the lock, clears what dead writers left and compares the plan with what is there.

    Args:
        root: The cache folder; created if need be.
        job_id: Equal for all workers of one job.

    Raises: NotWritableError, CacheBusyError.
    """

    def __init__(self, root: Path, job_id: str) -> None:
        self.paths = CachePaths(root)
        make_folder(self.paths.job / "attempts")
        self._lock = JobLock(self.paths.job, job_id)
        if self._lock.is_first:
            for folder in (root, *(path for path in root.iterdir() if path.is_dir())):
                remove_stale_temporaries(folder)
            remove_stale_temporaries(self.paths.job / "attempts")
        self.fingerprint: Fingerprint | None = None

    def adopt(self, fingerprint: Fingerprint) -> None:
        """Start with this plan, or go on with it if it is the one the cache was begun with.

        Raises: CacheMismatchError naming every field that differs and both values.
        """
        plan = self.paths.job / "plan.json"
        if self.paths.manifest.is_file():
            known = read_manifest(self.paths)[0].fingerprint
        elif plan.is_file():
            known = read_fingerprint(plan.read_bytes(), where=str(plan))
        else:
            known = fingerprint
            write_file(plan, fingerprint_bytes(fingerprint))
        differing = differences(known, fingerprint)
        if differing and not any((self.paths.root / INDEX).glob("*.h5")):
            # Nothing was finished under the old plan (say, its batches did not fit into memory): it binds nobody.
            write_file(plan, fingerprint_bytes(fingerprint))
        elif differing:
            raise CacheMismatchError(
                f"{self.paths.root} was begun with another plan:\n  " + "\n  ".join(differing) + "\nNothing was "
                "changed. Run with the same settings and versions to go on, or give another --out folder"
            )
        self.fingerprint = fingerprint

    def planned_shards(self) -> list[PlannedShard]:
        """All shards, done or not, in order."""
        fingerprint = self._plan()
        total, size = fingerprint.source.num_samples, fingerprint.shard_samples
        return [
            PlannedShard(shard_name(fingerprint.split, number), first, min(size, total - first))
            for number, first in enumerate(range(0, total, size))
        ]

    def is_done(self, name: str) -> bool:
        """Whether a shard is committed: its index is readable and names files that are there in full size."""
        return _committed_index(self.paths, name) is not None

    def open_shard(self, name: str) -> ShardWriter:
        """Begin a shard that is not done; whatever lies there without an index is garbage and goes."""
        self._lock.check()
        for part in ("samples", LEDGER, INDEX, *(column.name for column in self._plan().columns)):
            self.paths.shard(part, name).unlink(missing_ok=True)
        return ShardWriter(self.paths, self._plan(), name)

    def commit_shard(self, writer: ShardWriter, bad: Sequence[BadSample]) -> ShardIndex:
        """Commit a shard, unless another job has taken over meanwhile.

        Raises: CacheBusyError, ShardConflictError, DiskFullError.
        """
        self._lock.check()
        index = writer.commit(bad)
        self._attempts(writer.name).unlink(missing_ok=True)
        return index

    def count_attempt(self, name: str) -> int:
        """Note durably that work on a shard begins; returns which attempt this is, from 1."""
        path = self._attempts(name)
        attempt = load_json(path.read_bytes(), where=str(path))["attempts"] + 1 if path.is_file() else 1
        write_file(path, dump_json({"attempts": attempt}))
        return attempt

    def finish(self) -> Manifest | None:
        """Write the manifest if every shard is done; None while some are still owed."""
        shards = [shard.name for shard in self.planned_shards()]
        # Asking for the files first spares a worker that is not the last one the reading of every index.
        if not all(self.paths.shard(INDEX, name).is_file() for name in shards):
            return None
        manifest = assemble_manifest(self.paths, self._plan(), shards)
        write_ecosystem_files(self.paths, manifest)
        write_manifest(self.paths, manifest)
        return manifest

    def close(self) -> None:
        """Give the cache back."""
        self._lock.close()

    def _attempts(self, name: str) -> Path:
        return self.paths.job / "attempts" / f"{name}.json"

    def _plan(self) -> Fingerprint:
        if self.fingerprint is None:
            raise ValueError("adopt() a fingerprint before working on shards")
        return self.fingerprint


def assemble_manifest(paths: CachePaths, fingerprint: Fingerprint, names: Sequence[str]) -> Manifest:
    """Make the manifest from the shards' indexes.

    Raises: IncompleteCacheError if a shard is not committed.
    """
    shards: list[ShardFacts] = []
    modes: Counter[str] = Counter()
    num_rotated = 0
    statistics: dict[str, list[TokenStatistics]] = {column.name: [] for column in fingerprint.columns}
    fidelity: dict[str, list[Fidelity | None]] = {column.name: [] for column in fingerprint.columns}
    for name in names:
        index = _committed_index(paths, name)
        if index is None:
            raise IncompleteCacheError(f"{paths.root}: shard {name} is not finished; run `kdcache extract` again")
        bad, measured = read_ledger(paths, name)
        files = {**index.files, INDEX: FileFacts.read(paths.shard(INDEX, name))}
        shards.append(ShardFacts(name=name, num_samples=len(index), num_bad=len(bad), files=files))
        modes.update(mode.decode() for mode in index.modes)
        num_rotated += int((index.orientations != 1).sum())
        for column, each in index.columns.items():
            statistics[column].append(each.statistics)
            fidelity[column].append(measured.get(column))
    return Manifest(
        fingerprint=fingerprint,
        shards=shards,
        columns={name: _summary(merged(statistics[name]), fidelity[name]) for name in statistics},
        image_modes=dict(sorted(modes.items())),
        num_rotated=num_rotated,
        num_bad=sum(shard.num_bad for shard in shards),
    )


def _summary(total: TokenStatistics, fidelity: list[Fidelity | None]) -> ColumnSummary:
    known = [each for each in fidelity if each is not None]
    combined = Fidelity()
    for each in known:
        combined.merge(each)
    num_values = max(total.count * total.num_channels, 1)
    return ColumnSummary(
        # A rebuilt ledger has no fidelity: that of the other shards alone would be another figure under the same name.
        fidelity=combined.summary() if len(known) == len(fidelity) else {},
        minimum=float(total.minimum.min()) if total.count else 0.0,
        maximum=float(total.maximum.max()) if total.count else 0.0,
        rms=float(np.sqrt((total.m2.sum() + total.count * np.square(total.mean).sum()) / num_values)),
        num_tokens=total.count,
        num_zero_tokens=total.num_zero_tokens,
    )


def read_ledger(paths: CachePaths, name: str) -> tuple[list[BadSample], dict[str, Fidelity]]:
    """The ledger of a shard: its bad images, and the codecs' fidelity by column."""
    path = paths.shard(LEDGER, name)
    value = load_json(path.read_bytes(), where=str(path))
    try:
        bad = [BadSample(**each) for each in value["bad"]]
        return bad, {column: Fidelity(**each) for column, each in value["fidelity"].items()}
    except (KeyError, TypeError) as error:
        raise CorruptCacheError(f"{path}: not a ledger ({error!r}); run `kdcache verify --rebuild`") from None


def _committed_index(paths: CachePaths, name: str) -> ShardIndex | None:
    path = paths.shard(INDEX, name)
    if not path.is_file():
        return None
    try:
        index = read_index(path)
    except CorruptCacheError:
        return None
    for part, facts in index.files.items():
        file = paths.shard(part, name)
        if not file.is_file() or file.stat().st_size != facts.size_bytes:
            return None
    return index
