"""From a place, here or on object storage, to the paths of the cache there."""

import hashlib
from pathlib import Path

from kdcache.cache.paths import JOB, RESERVED_NAMES, CachePaths, is_safe_name
from kdcache.durable import make_folder, remove, write_changed
from kdcache.errors import IncompleteCacheError, Remedy
from kdcache.remote import Location, RemoteFolder, RemoteUrl, Staging, location
from kdcache.remote.staging import private_folder
from kdcache.storage import entries

_JOB_FILES = ("plan.json", "versions.json")


def reading_paths(place: str | Location) -> CachePaths:
    """The paths of a cache that is read; those of one on object storage with its manifests fetched again.

    Raises: IncompleteCacheError where nothing lies there, StorageError, MissingExtraError.
    """
    place = location(place)
    if isinstance(place, Path):
        return CachePaths(place)
    paths = _mirrored(place, "caches")
    if not pull_manifests(paths):
        raise IncompleteCacheError(f"{place}: no such folder", remedy=Remedy.EXTRACT, path=place)
    return paths


def writing_paths(place: str | Location) -> CachePaths:
    """The paths of a cache that is written; one on object storage is written shard by shard through a folder here."""
    place = location(place)
    if isinstance(place, Path):
        return CachePaths(place)
    paths = _mirrored(place, "jobs")
    pull_manifests(paths)
    return paths


def pull_manifests(paths: CachePaths) -> bool:
    """Fetch what describes a cache on object storage: manifests and plans of the base and of all groups.

    Returns: whether anything lies there.
    Raises: StorageError.
    """
    assert paths.remote is not None
    objects, folders = paths.remote.list()
    _pull_level(paths, [name for name in objects if name.endswith((".json", ".sha256"))], has_job=JOB in folders)
    groups = [name for name in folders if is_safe_name(name) and name not in RESERVED_NAMES]
    for name in groups:
        own = paths.group(name)
        assert own.remote is not None
        objects_of, folders_of = own.remote.list()
        _pull_level(
            own, [each for each in objects_of if each.endswith((".json", ".sha256"))], has_job=JOB in folders_of
        )
    for name in set(paths.group_names()) - set(groups):
        _forget(paths.group(name), [])
    return bool(objects or folders)


def pull_job(paths: CachePaths) -> None:
    """Fetch the plan that was begun on object storage, and forget one that is not there."""
    assert paths.remote is not None
    for name in _JOB_FILES:
        local = paths.job / name
        data = paths.remote.read(paths.object_name(local))
        if data is None:
            remove(local)
        else:
            make_folder(paths.job)
            write_changed(local, data)


def _pull_level(paths: CachePaths, names: list[str], *, has_job: bool) -> None:
    assert paths.remote is not None
    _forget(paths, names)
    make_folder(paths.root)
    # The digest first, as it is written: a manifest that is replaced meanwhile is not taken for damage.
    for name in sorted(names, key=lambda each: each == paths.manifest.name):
        data = paths.remote.read(name)
        if data is not None:
            write_changed(paths.root / name, data)
    if has_job:
        pull_job(paths)


def _forget(paths: CachePaths, names: list[str]) -> None:
    """Remove what object storage does not have any more."""
    for path in entries(paths.root):
        if path.suffix in (".json", ".sha256") and path.name not in names:
            remove(path)


def _mirrored(url: RemoteUrl, kind: str) -> CachePaths:
    staging = Staging.default()
    root = staging.root / kind / hashlib.sha256(str(url).encode()).hexdigest()[:32]
    private_folder(root.parent)
    make_folder(root)
    return CachePaths(root, RemoteFolder(url, staging))
