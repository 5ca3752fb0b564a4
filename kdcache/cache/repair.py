"""Repairing a cache, here or on object storage: move damaged shards aside for the same extraction to write again."""

import os
from collections.abc import Sequence

from kdcache.cache.base import BASE_PARTS, BaseFingerprint
from kdcache.cache.group import GroupFingerprint
from kdcache.cache.job import Job
from kdcache.cache.manifest import fingerprint_bytes
from kdcache.cache.paths import INDEX
from kdcache.cache.publishing import publish_plan, withdraw_manifest
from kdcache.durable import make_folder, write_file
from kdcache.storage import storage_errors


def move_aside_base(job: Job[BaseFingerprint], fingerprint: BaseFingerprint, shards: Sequence[str]) -> None:
    """Move damaged shards of the base to ``job/damaged/`` and withdraw its manifest; groups stay as they are.

    Args:
        job: The right to write to the base.
        fingerprint: The base's.
        shards: Names of the shards.

    Raises: NotWritableError, StorageError; the same again finishes what was begun.
    """
    _move_aside(job, fingerprint, list(BASE_PARTS), shards)


def move_aside_group(job: Job[GroupFingerprint], fingerprint: GroupFingerprint, shards: Sequence[str]) -> None:
    """Move damaged shards of a group to its ``job/damaged/`` and withdraw its manifest.

    Args:
        job: The right to write to the group.
        fingerprint: The group's.
        shards: Names of the shards.
    """
    _move_aside(job, fingerprint, [INDEX, *(column.name for column in fingerprint.columns)], shards)


def _move_aside(
    job: "Job[BaseFingerprint] | Job[GroupFingerprint]",
    fingerprint: "BaseFingerprint | GroupFingerprint",
    parts: list[str],
    shards: Sequence[str],
) -> None:
    paths = job.paths
    write_file(paths.job / "plan.json", fingerprint_bytes(fingerprint))
    publish_plan(paths)
    job.keep_versions()
    withdraw_manifest(paths)
    # The index goes first: without it the shard is not done, whatever else is left when this is interrupted.
    for name in shards:
        for part in sorted(parts, key=lambda part: part != INDEX):
            path = paths.shard(part, name)
            aside = paths.job / "damaged" / part / path.name
            if paths.remote is not None:
                paths.remote.move(paths.object_name(path), paths.object_name(aside))
            elif os.path.lexists(path):
                make_folder(aside.parent)
                with storage_errors(path, "move aside"):
                    path.replace(aside)
