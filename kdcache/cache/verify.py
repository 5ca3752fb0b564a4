"""Everything that can be checked about a cache without the teacher, each fault named with its shard, key and remedy."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from kdcache.cache.base import BASE_PARTS, BaseShard
from kdcache.cache.cache import Cache
from kdcache.cache.column import Column
from kdcache.cache.ecosystem import base_files, group_files
from kdcache.cache.facts import FileFacts
from kdcache.cache.group import Group
from kdcache.cache.group_index import GroupIndex
from kdcache.cache.index import ShardIndex
from kdcache.cache.job import read_ledger
from kdcache.cache.keys import keys_digest, labels_digest
from kdcache.cache.manifest import fingerprint_bytes
from kdcache.cache.paths import INDEX, JOB, LEDGER, SAMPLES, CachePaths
from kdcache.cache.rebuild_ledgers import is_lost, planned_keys
from kdcache.cache.sample import Sample
from kdcache.cache.shard import META_MEMBER
from kdcache.cache.tar import read_members
from kdcache.cache.verify_columns import record_faults
from kdcache.durable import sha256_file
from kdcache.errors import CorruptCacheError, KdcacheError, Remedy
from kdcache.remote import Lease
from kdcache.storage import entries, open_regular, read_regular

_MAX_KEYS_NAMED = 5
# What else than damage makes a group unusable: none of these is helped by rebuilding.
_OWN_REMEDIES = (Remedy.RESTORE_BASE_OR_DELETE_GROUP, Remedy.FINISH_EXTRACTION, Remedy.UPDATE)


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong.

    Args:
        shard: Shard name, empty when it concerns a base or group as a whole.
        part: ``samples``, ``index``, ``ledger``, a column, or a file name.
        key: The image concerned, empty when the whole file is.
        problem: What was found and what was wanted.
        remedy: What to do.
        group: Name of the group, empty for the base.
    """

    shard: str
    part: str
    key: str
    problem: str
    remedy: Remedy
    group: str = ""

    @property
    def where(self) -> str:
        """Shard, part and key in words."""
        part = f"{self.group}/{self.part}" if self.group and self.part else self.part or self.group
        return " ".join(word for word in (self.shard, part, f"key {self.key!r}" if self.key else "") if word)


def verify_base_shard(cache: Cache, shard: BaseShard) -> list[Fault]:
    """Check one shard of the base: sizes, hashes, samples against index."""
    faults: list[Fault] = []
    try:
        faults.extend(_base_faults(cache, shard))
    except KdcacheError as error:
        faults.append(Fault(shard.name, "", "", str(error), error.remedy or Remedy.REPAIR))
    return faults


def verify_group_shard(cache: Cache, group: Group, shard: BaseShard) -> list[Fault]:
    """Check one shard of a group: sizes, hashes, headers against the base's keys, records against checksums."""
    faults: list[Fault] = []
    try:
        faults.extend(_group_faults(cache, group, shard))
    except KdcacheError as error:
        faults.append(Fault(shard.name, "", "", str(error), error.remedy or Remedy.REPAIR, group.name))
    return faults


def verify_whole(cache: Cache) -> Iterator[Fault]:
    """Check what concerns all shards together: keys unique and complete, usable groups, no unknown files."""
    yield from _key_faults(cache)
    yield from _ecosystem_faults(cache)
    for name, error in cache.unusable.items():
        remedy = error.remedy if error.remedy in _OWN_REMEDIES else Remedy.REBUILD_OR_DELETE_GROUP
        yield Fault("", "manifest.json", "", str(error), remedy, name)
    yield from _stray_files(cache)


def _key_faults(cache: Cache) -> Iterator[Fault]:
    seen: dict[str, str] = {}
    source_keys: list[str] = []
    labels: list[int] = []
    is_whole = True  # without a lost ledger, whose keys nobody knows
    facts = cache.manifest.fingerprint.source
    for shard in cache.manifest.shards:
        try:
            index = cache.index(shard)
            held = cache.hold(LEDGER, shard)
            bad = read_ledger(held.path)
        except KdcacheError:
            return  # already reported by verify_base_shard; the rest cannot be checked
        for row in range(len(index)):
            key = index.key(row)
            if key in seen:
                yield Fault(shard.name, INDEX, key, f"also in shard {seen[key]}", Remedy.EXTRACT_ELSEWHERE)
            seen[key] = shard.name
        is_whole = is_whole and not is_lost(bad)
        source_keys += planned_keys([index.sample(row).source_key for row in range(len(index))], bad)
        labels += index.labels.tolist()
    if len(labels) == facts.num_samples and labels_digest(labels) != facts.labels_sha256:
        yield Fault(
            "", "manifest.json", "", "the labels of all shards are not the ones of the plan", Remedy.EXTRACT_ELSEWHERE
        )
    if is_whole and keys_digest(source_keys) != facts.keys_sha256:
        problem = f"the {len(source_keys)} source keys of all shards are not the ones of the plan"
        yield Fault("", "manifest.json", "", problem, Remedy.EXTRACT_ELSEWHERE)


def _ecosystem_faults(cache: Cache) -> Iterator[Fault]:
    """Files for other programs must say what the manifests say."""
    manifest = cache.manifest
    folders = {"": (cache.paths, base_files(cache.paths, manifest))}
    for name, group in cache.groups.items():
        folders[name] = (group.paths, group_files(group.paths, group.manifest, manifest))
    for name, (paths, wanted) in folders.items():
        for file, data in wanted.items():
            path = paths.root / file
            try:
                problem = "" if read_regular(path) == data else "does not say what the manifest says"
            except KdcacheError:
                problem = "the file is missing"
            if problem:
                yield Fault("", file, "", problem, Remedy.REBUILD, name)
        for path in entries(paths.root, suffix=".json"):
            if path.name.startswith("wids-") and path.name not in wanted:
                yield Fault("", path.name, "", "no manifest names this file", Remedy.REMOVE_FILE, name)


def _held(cache: Cache, parts: Sequence[str], shard: BaseShard) -> tuple[list[Lease], dict[str, str]]:
    """The files of a shard, here for as long as the leases live, and what is wrong with each; empty for nothing."""
    leases: list[Lease] = []
    problems: dict[str, str] = {}
    for part in parts:
        try:
            leases.append(cache.hold(part, shard, reread=True))
            problems[part] = _file_problem(cache.path(part, shard), cache.file(part, shard))
        except CorruptCacheError as error:
            problems[part] = str(error)
    return leases, problems


def _file_problem(path: Path, facts: FileFacts) -> str:
    if path.is_symlink():
        return "is a link, wanted an ordinary file"
    if not path.is_file():
        return "the file is missing"
    found = path.stat().st_size
    if found != facts.size_bytes:
        return f"{found} bytes found, {facts.size_bytes} wanted"
    if sha256_file(path) != facts.sha256:
        return "bytes differ from what was written (sha256)"
    return ""


def _base_faults(cache: Cache, shard: BaseShard) -> Iterator[Fault]:
    broken: set[str] = set()
    leases, problems = _held(cache, BASE_PARTS, shard)
    for part, problem in problems.items():
        if problem:
            broken.add(part)
            yield Fault(shard.name, part, "", problem, Remedy.REBUILD if part == INDEX else Remedy.REPAIR)
    if INDEX in broken:
        return
    index = cache.index(shard)
    if SAMPLES not in broken:
        yield from _sample_faults(cache, shard, index)
    del leases


def _sample_faults(cache: Cache, shard: BaseShard, index: ShardIndex) -> Iterator[Fault]:
    path = cache.path(SAMPLES, shard)
    fingerprint = cache.manifest.fingerprint
    row = 0
    with open_regular(path) as file:
        for member in read_members(path):
            file.seek(member.offset)
            data = file.read(member.size_bytes)
            if member.name == META_MEMBER:
                if data != fingerprint_bytes(fingerprint):
                    problem = "made by another plan than the manifest's"
                    yield Fault(shard.name, SAMPLES, "", problem, Remedy.REPAIR)
            elif member.name.endswith(".json"):
                key = member.name.removesuffix(".json")
                sample = Sample.from_json(key, data, tuple(fingerprint.views.fields), where=f"{path}, {member.name}")
                if row >= len(index) or sample != index.sample(row):
                    yield Fault(shard.name, SAMPLES, key, "differs from its index", Remedy.REBUILD)
                row += 1
            elif row == 0 or hashlib.sha256(data).digest() != index.source_sha256[row - 1].tobytes():
                problem = "the image's bytes are not the source's"
                yield Fault(shard.name, SAMPLES, member.name, problem, Remedy.REPAIR)
    if row != len(index):
        problem = f"{row} samples found, {len(index)} wanted by the index"
        yield Fault(shard.name, SAMPLES, "", problem, Remedy.REBUILD)


def _group_faults(cache: Cache, group: Group, shard: BaseShard) -> Iterator[Fault]:
    parts = [f"{group.name}/{part}" for part in (INDEX, *(column.facts.name for column in group.columns))]
    leases, found_problems = _held(cache, [INDEX, *parts], shard)
    of_base = found_problems.pop(INDEX)
    problems = {part.partition("/")[2]: problem for part, problem in found_problems.items()}
    if problems[INDEX]:
        yield Fault(shard.name, INDEX, "", problems[INDEX], Remedy.REBUILD, group.name)
    keys: ShardIndex | None = None
    held: GroupIndex | None = None
    if not of_base and not problems[INDEX]:
        keys, held = cache.index(shard), cache.group_index(group, shard)
    for column in group.columns:
        is_here = cache.paths.remote is None or not problems[column.facts.name]
        found = [] if keys is None or held is None or not is_here else _column_faults(cache, column, shard, keys, held)
        if problems[column.facts.name] and not found:
            found = [Fault(shard.name, column.facts.name, "", problems[column.facts.name], Remedy.REPAIR, group.name)]
        yield from found[:_MAX_KEYS_NAMED]
        if len(found) > _MAX_KEYS_NAMED:
            rest = f"{len(found) - _MAX_KEYS_NAMED} more records like these"
            yield Fault(shard.name, column.facts.name, "", rest, Remedy.REPAIR, group.name)
    del leases


def _column_faults(cache: Cache, column: Column, shard: BaseShard, keys: ShardIndex, held: GroupIndex) -> list[Fault]:
    own = column.facts.name
    of_index = held.columns.get(own) or held.pixels.get(own)
    if of_index is None or getattr(of_index, "stride", column.stride_bytes) != column.stride_bytes:
        problem = f"column {own} is missing or has another stride"
        return [Fault(shard.name, INDEX, "", problem, Remedy.REBUILD, column.group)]
    return [
        Fault(shard.name, own, key, problem, Remedy.REPAIR, column.group)
        for key, problem in record_faults(cache, column, shard, keys, of_index)
    ]


def _stray_files(cache: Cache) -> Iterator[Fault]:
    names = [shard.name for shard in cache.manifest.shards]
    root = cache.paths.root
    of_base = {cache.paths.shard(part, name) for part in BASE_PARTS for name in names}
    yield from _unnamed(cache.paths, BASE_PARTS, of_base, "")
    groups = {*cache.groups, *cache.unusable}
    for path in entries(root):
        if path.is_dir() and path.name not in (*BASE_PARTS, JOB, *groups):
            yield Fault("", path.name, "", "no manifest names this folder", Remedy.REMOVE_FILE)
    for group in cache.groups.values():
        parts = [INDEX, *(column.facts.name for column in group.columns)]
        named = {group.paths.shard(part, name) for part in parts for name in names}
        yield from _unnamed(group.paths, parts, named, group.name)
        for path in entries(group.paths.root):
            if path.is_dir() and path.name not in (*parts, JOB):
                yield Fault("", path.name, "", "no manifest names this folder", Remedy.REMOVE_FILE, group.name)


def _unnamed(paths: CachePaths, parts: Sequence[str], named: set[Path], group: str) -> Iterator[Fault]:
    for part in parts:
        for path in paths.files(part):
            if path not in named:
                yield Fault("", f"{part}/{path.name}", "", "no manifest names this file", Remedy.REMOVE_FILE, group)
