"""Damage, and what finds it."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kdcache.cache import BaseFingerprint, GroupFingerprint, open_cache
from kdcache.cache.facts import FileFacts
from kdcache.cache.group_index import GroupIndex, group_index_bytes, read_group_index
from kdcache.cache.index import ShardIndex, index_bytes, read_index
from kdcache.cache.job import Job
from kdcache.cache.paths import CachePaths
from kdcache.cache.rebuild import rebuild_base, rebuild_group
from kdcache.cache.verify import Fault, verify_base_shard, verify_group_shard, verify_whole


def all_faults(root: Path) -> list[Fault]:
    """Everything `kdcache verify` finds."""
    cache = open_cache(root)
    faults = [fault for shard in cache.manifest.shards for fault in verify_base_shard(cache, shard)]
    for group in cache.groups.values():
        faults += [fault for shard in cache.manifest.shards for fault in verify_group_shard(cache, group, shard)]
    return faults + list(verify_whole(cache))


def overwrite(path: Path, data: bytes) -> None:
    """Replace a read-only file."""
    path.chmod(0o644)
    path.write_bytes(data)


def rewrite_manifest(paths: CachePaths, change: Callable[[Any], Any]) -> None:
    """Change a manifest and its digest: damage that no hash of its own can find."""
    value = json.loads(paths.manifest.read_bytes())
    change(value)
    data = json.dumps(value).encode()
    paths.manifest.write_bytes(data)
    paths.manifest_digest.write_text(hashlib.sha256(data).hexdigest())


def facts_json(data: bytes, path: Path) -> dict[str, Any]:
    """What a manifest says of a file."""
    facts = FileFacts.read(path)
    assert facts.sha256 == hashlib.sha256(data).hexdigest()
    return {"sha256": facts.sha256, "xxh3": facts.xxh3, "size_bytes": facts.size_bytes}


def forge(root: Path, shard: str, part: str, data: bytes, change: Callable[[Any], None] = lambda _: None) -> None:
    """Replace a file of the base (``samples``) or of a group (``<group>/<column>``), and make index and manifest agree.

    Args:
        root: The cache.
        shard: Its name.
        part: Which file.
        data: Its new bytes.
        change: Also applied to the index of the shard.
    """
    group, _, own = part.rpartition("/")
    paths = CachePaths(root).group(group) if group else CachePaths(root)
    path, index_path = paths.shard(own, shard), paths.shard("index", shard)
    overwrite(path, data)
    index: ShardIndex | GroupIndex = read_group_index(index_path) if group else read_index(index_path)
    index.files[own] = FileFacts.read(path)
    change(index)
    again = group_index_bytes(index) if isinstance(index, GroupIndex) else index_bytes(index)
    overwrite(index_path, again)

    def agree(manifest: Any) -> None:
        files = next(each for each in manifest["shards"] if each["name"] == shard)["files"]
        files[own] = facts_json(data, path)
        files["index"] = facts_json(again, index_path)

    rewrite_manifest(paths, agree)
    if not group:
        follow_base(root)


def follow_base(root: Path) -> None:
    """Let every group name the base that now lies beside it."""
    digest = CachePaths(root).manifest_digest.read_text().strip()
    for name in CachePaths(root).group_names():
        rewrite_manifest(CachePaths(root).group(name), lambda manifest: manifest.update(base=digest))


def rebuild_all(root: Path) -> None:
    """As `kdcache verify --rebuild`."""
    rebuild_only_base(root)
    for name in CachePaths(root).group_names():
        rebuild_only_group(root, name)


def rebuild_only_base(root: Path) -> None:
    """The base alone."""
    job = Job(CachePaths(root), "rebuild", BaseFingerprint)
    try:
        rebuild_base(job)
    finally:
        job.close()


def rebuild_only_group(root: Path, name: str) -> None:
    """One group alone."""
    job = Job(CachePaths(root).group(name), "rebuild", GroupFingerprint)
    try:
        rebuild_group(job, CachePaths(root))
    finally:
        job.close()
