"""What one pass writes: a base, column groups beside it, or groups for a base that is there already."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import msgspec

from kdcache.cache.assembly import assemble_base, assemble_group
from kdcache.cache.base import BASE_PARTS, BaseFingerprint, BaseManifest, PlannedShard, planned_shards, read_base
from kdcache.cache.ecosystem import base_files, group_files, write_base_files, write_group_files
from kdcache.cache.group import GroupFingerprint, GroupManifest
from kdcache.cache.group_writer import GroupShardWriter
from kdcache.cache.job import Job
from kdcache.cache.manifest import fingerprint_digest, manifest_digest, write_manifest
from kdcache.cache.paths import CachePaths
from kdcache.cache.places import writing_paths
from kdcache.cache.publishing import publish_manifest, publish_shard
from kdcache.cache.writer import BadSample, BaseShardWriter
from kdcache.durable import remove
from kdcache.errors import IncompleteCacheError, Remedy
from kdcache.remote import Lease, Location
from kdcache.storage import entries, storage_errors

Manifest = TypeVar("Manifest", BaseManifest, GroupManifest)


@dataclass(frozen=True)
class ShardTask:
    """The pending part of one shard.

    Args:
        shard: Its plan.
        base: Whether its images are pending.
        groups: Names of the groups whose columns are pending.
    """

    shard: PlannedShard
    base: bool
    groups: tuple[str, ...]


@dataclass(frozen=True)
class TaskWriter:
    """Writes the pending part of one shard.

    Args:
        shard: Its plan.
        base: None if its images are there.
        groups: By name, those that are pending.
        room: Keeps room for it in the folder through which it goes to object storage.
    """

    shard: PlannedShard
    base: BaseShardWriter | None
    groups: dict[str, GroupShardWriter]
    room: Lease | None = None

    def discard(self) -> None:
        """Remove everything that is not committed."""
        for writer in (*([self.base] if self.base else []), *self.groups.values()):
            writer.discard()
        self.release()

    def release(self) -> None:
        """Give back the room that was kept for it."""
        if self.room is not None:
            self.room.release()


class Extraction:
    """The right to write to a base and its groups, held until `close`.

    Args:
        root: The cache folder, created if need be, or its place on object storage.
        base: How the base is made.
        groups: How the groups of this pass are made, by name.
        job_id: Equal for all workers of one job.
        writes_base: False for a base that is complete and only read.
        accept_versions: Whether what was begun by other versions of libraries is continued.

    Raises: NotWritableError, CacheBusyError, CacheMismatchError where something else was begun under these names.
    """

    def __init__(
        self,
        root: Location,
        base: BaseFingerprint,
        groups: Mapping[str, GroupFingerprint],
        job_id: str,
        *,
        writes_base: bool,
        accept_versions: bool = False,
    ) -> None:
        self.paths = writing_paths(root)
        # Of shards that go to object storage, by name: what each takes here before it is uploaded.
        self.expected_bytes: dict[str, int] = {}
        self.base, self.groups = base, dict(groups)
        self._base_job: Job[BaseFingerprint] | None = None
        self._jobs: dict[str, Job[GroupFingerprint]] = {}
        try:
            if writes_base:
                self._base_job = Job(self.paths, job_id, BaseFingerprint)
                self.base = self._base_job.adopt(base, accept_versions=accept_versions)
            for name, fingerprint in groups.items():
                own = msgspec.structs.replace(fingerprint, base=fingerprint_digest(self.base))
                job = self._jobs[name] = Job(self.paths.group(name), job_id, GroupFingerprint)
                former = job.known()
                self.groups[name] = job.adopt(own, accept_versions=accept_versions)
                _remove_replaced(job.paths, former, self.groups[name])
        except BaseException:
            self.close()
            raise

    def planned(self) -> list[PlannedShard]:
        """All shards, done or not, in order."""
        return planned_shards(self.base)

    def task(self, shard: PlannedShard) -> ShardTask | None:
        """The pending part of a shard; None if it is done."""
        base = self._base_job is not None and not self._base_job.is_done(shard.name)
        groups = tuple(name for name, job in self._jobs.items() if not job.is_done(shard.name))
        return ShardTask(shard, base, groups) if base or groups else None

    def open_shard(self, task: ShardTask) -> TaskWriter:
        """Begin a shard; whatever is there without an index is garbage and is removed."""
        name = task.shard.name
        remote = self.paths.remote
        room = None if remote is None else remote.staging.reserve(self.expected_bytes.get(name, 0))
        base = None
        if task.base:
            assert self._base_job is not None
            self._base_job.clear(name, list(BASE_PARTS))
            self._base_job.begin_shard()
            base = BaseShardWriter(self.paths, self.base, name)
        writers: dict[str, GroupShardWriter] = {}
        for group in task.groups:
            fingerprint = self.groups[group]
            self._jobs[group].clear(name, [column.name for column in fingerprint.columns])
            self._jobs[group].begin_shard()
            writers[group] = GroupShardWriter(self.paths.group(group), fingerprint, self.base, name)
        return TaskWriter(task.shard, base, writers, room)

    def commit(self, writer: TaskWriter, bad: Sequence[BadSample]) -> None:
        """Commit a shard, images first, unless another job has taken over.

        Args:
            writer: Of the shard.
            bad: Images of its plan that are not in it.

        Raises: CacheBusyError, ShardConflictError, DiskFullError; IncompleteCacheError where an image or a record is
            missing, and then nothing is committed.
        """
        self._require_all(writer, writer.shard.num_samples - len(bad))
        for job in self._all_jobs():
            job.check()
        if writer.base is not None:
            files = writer.base.commit(bad).files
            publish_shard(self.paths, writer.shard.name, files)
        for group in writer.groups.values():
            files = group.commit().files
            publish_shard(group.paths, writer.shard.name, files)
        writer.release()
        for job in self._all_jobs():
            remove(job.attempts(writer.shard.name))

    def _require_all(self, writer: TaskWriter, num_samples: int) -> None:
        num_records = num_samples * self.base.views.num_views
        counts = [("images", writer.base.num_samples, num_samples)] if writer.base is not None else []
        for name, group in writer.groups.items():
            counts += [(f"records of {name}/{column}", n, num_records) for column, n in group.num_records.items()]
        for what, found, wanted in counts:
            if found != wanted:
                raise IncompleteCacheError(
                    f"{self.paths}: shard {writer.shard.name} has {found} {what}, {wanted} are wanted; it was not "
                    "committed",
                    remedy=Remedy.FINISH_EXTRACTION,
                )

    def count_attempt(self, name: str) -> int:
        """Note durably that work on a shard begins; returns which attempt this is, from 1."""
        return self._all_jobs()[0].count_attempt(name)

    def attempts(self, name: str) -> Path:
        """The file that counts attempts at a shard."""
        return self._all_jobs()[0].attempts(name)

    @property
    def log_path(self) -> Path:
        """Where workers note what they did: ``job/runs.jsonl`` of what is written."""
        return self._all_jobs()[0].paths.job / "runs.jsonl"

    def finish(
        self, accept: Callable[[BaseManifest, Mapping[str, GroupManifest]], None] | None = None
    ) -> tuple[BaseManifest, dict[str, GroupManifest]] | None:
        """Write the manifests if every shard is done; None while some are still pending, or have lost a file.

        What is there already, with the same bytes, is not written again.

        Args:
            accept: Raises where the whole is to be refused; then no manifest is written.

        Raises: CorruptCacheError, BadRecordError where a teacher gave the same for everything, IncompleteCacheError
            where the base is only read and not there.
        """
        names = [shard.name for shard in self.planned()]
        if self.paths.remote is not None:
            self.paths.remote.refresh()
        found = self._base(names)
        if found is None:
            return None
        base, digest = found
        groups: dict[str, GroupManifest] = {}
        for name, fingerprint in self.groups.items():
            paths = self.paths.group(name)
            group = _assembled(paths, names, partial(assemble_group, paths, fingerprint, base, digest))
            if group is not None:
                groups[name] = group
        if accept is not None:
            accept(base, groups)
        if self._base_job is not None:
            write_base_files(self.paths, base)
            write_manifest(self.paths, base)
            publish_manifest(self.paths, base_files(self.paths, base))
        for name, group in groups.items():
            own = self.paths.group(name)
            write_group_files(own, group, base)
            write_manifest(own, group)
            publish_manifest(own, group_files(own, group, base))
        return (base, groups) if len(groups) == len(self.groups) else None

    def _base(self, names: Sequence[str]) -> tuple[BaseManifest, str] | None:
        """The base's manifest and its digest."""
        if self._base_job is None:
            return read_base(self.paths)
        base = _assembled(self.paths, names, partial(assemble_base, self.paths, self.base, names))
        return None if base is None else (base, manifest_digest(base))

    def remove_leftovers(self) -> None:
        """Remove the unfinished files of workers of this pass that have died."""
        for job in self._all_jobs():
            job.remove_temporaries()

    def close(self) -> None:
        """Release the locks."""
        for job in self._all_jobs():
            job.close()

    def _all_jobs(self) -> "list[Job[BaseFingerprint] | Job[GroupFingerprint]]":
        return [*([self._base_job] if self._base_job is not None else []), *self._jobs.values()]


def _remove_replaced(paths: CachePaths, former: GroupFingerprint | None, adopted: GroupFingerprint) -> None:
    """Remove the columns of a plan of which nothing was finished, so that it could be replaced."""
    lost = {column.name for column in (former.columns if former else [])} - {column.name for column in adopted.columns}
    for folder in entries(paths.root):
        if folder.name in lost and folder.is_dir() and not folder.is_symlink():
            for tar in entries(folder):
                remove(tar)
            with storage_errors(folder, "remove"):
                folder.rmdir()


def _assembled(paths: CachePaths, names: Sequence[str], assemble: Callable[[], Manifest]) -> Manifest | None:
    """A manifest; None while shards are pending."""
    # Asking for the indexes first spares a worker that is not the last one the reading of every index.
    if not set(names) <= paths.finished():
        return None
    try:
        return assemble()
    except IncompleteCacheError:
        # An index is there, and a file that it names is not (any more).
        return None
