"""Finished shards, plans and manifests to object storage; nothing of this is done for a cache that lies here.

The order is the promise, as it is on a disk: all files of a shard before its index, the manifest last. Every file is
created in one request and never replaced, so that half a shard is never seen and the first of two writers wins.
"""

import contextlib
import tempfile
from collections.abc import Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from kdcache.cache.facts import FileFacts
from kdcache.cache.paths import INDEX, CachePaths
from kdcache.durable import make_folder, remove, write_file
from kdcache.errors import CacheBusyError, CorruptCacheError, Remedy
from kdcache.storage import read_regular

_UPLOADS_AT_ONCE = 4
HERE_PREFIX = "here-"


def publish_shard(paths: CachePaths, name: str, parts: Iterable[str]) -> None:
    """Upload a shard that is finished here, its index last, and remove it here.

    Args:
        paths: Of the base or the group.
        name: The shard.
        parts: Without the index.

    Raises: ShardConflictError where somebody else has uploaded another, StorageError.
    """
    if paths.remote is None:
        return
    files = [paths.shard(part, name) for part in parts]
    with ThreadPoolExecutor(_UPLOADS_AT_ONCE, thread_name_prefix="kdcache-upload") as pool:
        # What is gone was uploaded by a run that was interrupted before it removed the index.
        list(pool.map(partial(_upload, paths), [file for file in files if file.is_file()]))
    index = paths.shard(INDEX, name)
    _upload(paths, index)
    for file in (*files, index):
        remove(file)


def publish_plan(paths: CachePaths) -> None:
    """Upload the plan that this job has adopted.

    Raises: CacheBusyError where another job has begun another one at the same time, StorageError.
    """
    if paths.remote is None:
        return
    plan = paths.job / "plan.json"
    name, data = paths.object_name(plan), read_regular(plan)
    known, held = paths.remote.find(name), paths.remote.read(name)
    if held is None:
        paths.remote.create(name, data)
    elif held != data and (known is None or not paths.remote.replace(name, data, known=known)):
        # Where the answer to a first request was lost, the second finds what the first wrote.
        require_plan(paths)


def require_plan(paths: CachePaths) -> None:
    """Refuse to continue where another job has put another plan in the place of this one's.

    Raises: CacheBusyError, StorageError.
    """
    if paths.remote is not None:
        plan = paths.job / "plan.json"
        if paths.remote.read(paths.object_name(plan)) != read_regular(plan):
            raise _superseded(paths)


def publish_note(paths: CachePaths, path: Path) -> None:
    """Upload a small file that grows, in place of what was there."""
    if paths.remote is not None:
        paths.remote.replace(paths.object_name(path), read_regular(path))


def publish_manifest(paths: CachePaths, files: Iterable[str]) -> None:
    """Upload the files for other programs, then the manifest's digest, then the manifest.

    Raises: ShardConflictError where there is another, StorageError.
    """
    if paths.remote is not None:
        for name in (*files, paths.manifest_digest.name, paths.manifest.name):
            _upload(paths, paths.root / name)


def withdraw_manifest(paths: CachePaths) -> None:
    """Remove the manifest, the first of all: there is no cache until it is written again.

    On object storage what was uploaded before it goes too, because nothing there is ever replaced and another version
    of a library may make other bytes.

    Raises: StorageError.
    """
    if paths.remote is not None:
        described = [name for name in paths.remote.list()[0] if name.endswith((".json", ".sha256"))]
        for name in sorted(described, key=lambda each: each != paths.manifest.name):
            paths.remote.remove(name)
    remove(paths.manifest)


@contextlib.contextmanager
def here(paths: CachePaths, name: str, *parts: str) -> Generator[CachePaths]:
    """Paths under which small files of a shard (its index, its ledger) lie here while the block runs."""
    if paths.remote is None:
        yield paths
        return
    make_folder(paths.job)
    with tempfile.TemporaryDirectory(dir=paths.job, prefix=HERE_PREFIX) as folder:
        own = CachePaths(Path(folder), paths.remote)
        for part in parts:
            path = own.shard(part, name)
            if (data := paths.remote.read(own.object_name(path))) is not None:
                make_folder(path.parent)
                write_file(path, data)
        yield own


def check_uploaded(path: Path, facts: FileFacts) -> None:
    """Compare a file that a run before this one has finished with its index. Raises: CorruptCacheError."""
    if FileFacts.read(path) != facts:
        raise CorruptCacheError(f"{path}: bytes differ from those that its index names", remedy=Remedy.REMOVE_FILE)


def _upload(paths: CachePaths, path: Path) -> None:
    assert paths.remote is not None
    paths.remote.create(paths.object_name(path), path)


def _superseded(paths: CachePaths) -> CacheBusyError:
    return CacheBusyError(
        f"{paths}: another job has begun here with another plan meanwhile; wait for it or stop it, then run this again"
    )
