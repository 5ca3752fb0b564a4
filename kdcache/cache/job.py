"""The right to write to a base or to a group: one plan, and shards that are done or not."""

import shutil
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from kdcache.cache.facts import Count, Facts
from kdcache.cache.hdf5 import IndexHead, head_from, read_hdf5
from kdcache.cache.lock import JobLock
from kdcache.cache.manifest import (
    differences,
    fingerprint_bytes,
    fingerprint_digest,
    known_fingerprint,
    read_fingerprint,
)
from kdcache.cache.paths import INDEX, LEDGER, CachePaths
from kdcache.cache.places import pull_job
from kdcache.cache.publishing import (
    HERE_PREFIX,
    check_uploaded,
    publish_note,
    publish_plan,
    publish_shard,
    require_plan,
)
from kdcache.cache.shard import META_MEMBER, read_meta
from kdcache.cache.writer import BadSample
from kdcache.durable import make_folder, remove, remove_stale_temporaries, write_changed, write_file
from kdcache.errors import CacheBusyError, CacheMismatchError, CorruptCacheError, KdcacheError, Remedy
from kdcache.storage import entries, read_regular
from kdcache.strict_json import dump_json, load_json

Fingerprint = TypeVar("Fingerprint", bound=Facts)
Record = TypeVar("Record", bound=Facts)
_LATER = "versions.json"


class Job(Generic[Fingerprint]):
    """The right to write to a base or a group, held until `close`.

    Opening it takes the lock and removes what dead writers left.

    Args:
        paths: Of the base or the group; its folder is created if need be.
        job_id: Equal for all workers of one job.
        kind: Of its fingerprint.

    Raises: NotWritableError, CacheBusyError.
    """

    def __init__(self, paths: CachePaths, job_id: str, kind: type[Fingerprint]) -> None:
        self.paths = paths
        self._kind = kind
        self._plan: str | None = None
        self._later: dict[str, str] | None = None
        make_folder(paths.job / "attempts")
        self._lock = JobLock(paths.job, job_id)
        try:
            if self._lock.is_first:
                self._remove_leftovers()
            if paths.remote is not None:
                pull_job(paths)
        except KdcacheError:
            self.close()
            raise

    def adopt(self, fingerprint: Fingerprint, *, accept_versions: bool = False) -> Fingerprint:
        """Start with this plan, or resume it if it is the one that was begun.

        Args:
            fingerprint: Of the plan.
            accept_versions: Whether a plan that differs only in the versions of libraries is resumed.

        Returns: the plan, with the versions that it was begun with.
        Raises: CacheMismatchError naming every field that differs and both values.
        """
        known = self.known()
        differing = [] if known is None else differences(known, fingerprint)
        if known is not None and differing and self.paths.finished():
            only_versions = all(line.startswith("versions.") for line in differing)
            if not (accept_versions and only_versions):
                raise CacheMismatchError(
                    f"{self.paths} was begun with another plan:",
                    lines=[*(f"  {each}" for each in differing), "Nothing was changed."],
                    remedy=Remedy.ACCEPT_VERSIONS if only_versions else Remedy.SAME_PLAN,
                )
            self._later = msgspec.to_builtins(fingerprint)["versions"]
            fingerprint = known
        # Where nothing was finished under another plan (say, its batches did not fit into memory), this replaces it.
        write_changed(self.paths.job / "plan.json", fingerprint_bytes(fingerprint))
        publish_plan(self.paths)
        self._plan = fingerprint_digest(fingerprint)
        return fingerprint

    def begin_shard(self) -> None:
        """Note durably that a shard is written by other versions than the plan names, where it is."""
        noted = later_versions(self.paths)
        if self._later is not None and self._later not in noted:
            write_file(self.paths.job / _LATER, dump_json([*noted, self._later]))
            publish_note(self.paths, self.paths.job / _LATER)

    def keep_versions(self) -> None:
        """Note durably what the manifest alone may know of later versions, before it is withdrawn."""
        if noted := later_versions(self.paths):
            write_changed(self.paths.job / _LATER, dump_json(noted))
            publish_note(self.paths, self.paths.job / _LATER)

    def known(self) -> Fingerprint | None:
        """The plan that was begun here, None before there is one. Raises: CorruptCacheError."""
        plan = self.paths.job / "plan.json"
        if self.paths.manifest.is_file():
            return known_fingerprint(self.paths, self._kind)
        if plan.is_file():
            return read_fingerprint(read_regular(plan), self._kind, where=str(plan))
        # Copied without its job: the tars say how they were made.
        for name in sorted(self.paths.finished()):
            if (head := committed(self.paths, name)) is not None:
                tar = self.paths.shard(next(part for part in head.files if part != LEDGER), name)
                return read_fingerprint(read_meta(tar), self._kind, where=f"{tar}, {META_MEMBER}")
        return None

    def is_done(self, name: str) -> bool:
        """Whether a shard is committed: its index is readable and names files that are there in full size.

        On object storage its index is there; a shard that is finished here only is uploaded.

        Raises: CacheMismatchError where it was written under another plan than the one adopted.
        """
        if self.paths.remote is not None and name in self.paths.finished():
            return True
        head = committed(self.paths, name)
        if head is not None and self._plan not in (None, head.plan):
            raise other_plan(self.paths, name, head.plan, self._plan)
        if head is not None and self.paths.remote is not None:
            for part, facts in head.files.items():
                check_uploaded(self.paths.shard(part, name), facts)
            publish_shard(self.paths, name, head.files)
        return head is not None

    def clear(self, name: str, parts: list[str]) -> None:
        """Remove the files of an unfinished shard; whatever has no index is garbage.

        Raises: CacheBusyError where somebody has finished it meanwhile: what is committed is never removed.
        """
        self.check()
        if committed(self.paths, name) is not None or self._is_uploaded(name):
            raise CacheBusyError(
                f"{self.paths}: another job has finished shard {name} meanwhile; nothing was removed. Run this again"
            )
        for part in (INDEX, *parts):
            remove(self.paths.shard(part, name))

    def check(self) -> None:
        """Refuse to continue when another job has taken over. Raises: CacheBusyError."""
        self._lock.check()
        require_plan(self.paths)

    def count_attempt(self, name: str) -> int:
        """Note durably that work on a shard begins; returns which attempt this is, from 1."""
        path = self.attempts(name)
        attempt = 1 + (_read(path, _Attempts).attempts if path.is_file() else 0)
        write_file(path, dump_json({"attempts": attempt}))
        return attempt

    def attempts(self, name: str) -> Path:
        """The file that counts attempts at a shard; gone once the shard is done."""
        return self.paths.job / "attempts" / f"{name}.json"

    def remove_temporaries(self) -> None:
        """Remove the unfinished files of writers that have died; those of live ones stay."""
        for folder in (self.paths.root, *(path for path in entries(self.paths.root) if path.is_dir())):
            remove_stale_temporaries(folder)
        remove_stale_temporaries(self.paths.job / "attempts")

    def close(self) -> None:
        """Release the lock."""
        self._lock.close()

    def _is_uploaded(self, name: str) -> bool:
        remote = self.paths.remote
        return remote is not None and remote.find(self.paths.object_name(self.paths.shard(INDEX, name))) is not None

    def _remove_leftovers(self) -> None:
        self.remove_temporaries()
        for path in entries(self.paths.job):
            if path.name.startswith(HERE_PREFIX):
                shutil.rmtree(path, ignore_errors=True)


def later_versions(paths: CachePaths) -> list[dict[str, str]]:
    """Versions of libraries that wrote shards besides those that the plan names, as far as job or manifest know.

    A cache may have been copied without its job, and what is asked here may be about to make its manifest again.
    """
    path = paths.job / _LATER
    noted: list[dict[str, str]] = []
    if path.is_file():
        try:
            noted = msgspec.convert(load_json(read_regular(path), where=str(path)), list[dict[str, str]])
        except msgspec.ValidationError as error:
            raise CorruptCacheError(f"{path}: not a list of versions ({error})", remedy=Remedy.RESTORE_FILE) from None
    return noted + [each for each in _recorded_versions(paths.manifest) if each not in noted]


def _recorded_versions(manifest: Path) -> list[dict[str, str]]:
    """Those in a manifest, also in a damaged one: nothing else has them."""
    try:
        value = load_json(read_regular(manifest), where=str(manifest))
        return msgspec.convert(value, _Recorded).later_versions
    except (KdcacheError, msgspec.ValidationError):
        return []


def other_plan(paths: CachePaths, name: str, found: str, wanted: str | None) -> CacheMismatchError:
    """The error for a shard that was written under another plan. Args: digests of both plans."""
    return CacheMismatchError(
        f"{paths.where(paths.shard(INDEX, name))}: the shard was written under the plan {found[:12]}…, the one here is "
        f"{(wanted or '')[:12]}…: other images, labels, views, teacher or settings. Nothing was changed",
        remedy=Remedy.SAME_PLAN,
    )


def index_head(paths: CachePaths, name: str) -> IndexHead | None:
    """Plan and files of a shard of a base or a group, as its index names them; None where no index is readable."""
    path = paths.shard(INDEX, name)
    if not path.is_file():
        return None
    try:
        return head_from(read_hdf5(path, read_regular(path), skip="columns"))
    except (CorruptCacheError, KeyError, ValueError):
        return None


def committed(paths: CachePaths, name: str) -> IndexHead | None:
    """The head of the index of a finished shard of a base or a group; None if the shard is not finished."""
    head = index_head(paths, name)
    if head is None:
        return None
    for part, facts in head.files.items():
        if paths.size_bytes(part, name) != facts.size_bytes:
            return None
    return head


def read_ledger(path: Path) -> list[BadSample]:
    """The bad images of a shard. Raises: CorruptCacheError."""
    return _read(path, _Ledger).bad


class _Recorded(msgspec.Struct):
    later_versions: list[dict[str, str]] = []


class _Attempts(Facts, frozen=True):
    attempts: Count


class _Ledger(Facts, frozen=True):
    bad: list[BadSample]


def _read(path: Path, kind: type[Record]) -> Record:
    value = load_json(read_regular(path), where=str(path))
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        if kind is _Ledger:
            raise CorruptCacheError(f"{path}: not a ledger ({error})", remedy=Remedy.RESTORE_FILE) from None
        # Nobody has a copy of a count, and without it counting begins again.
        raise CorruptCacheError(f"{path}: not a count of attempts ({error})", remedy=Remedy.REMOVE_FILE) from None
