"""Everything that can be checked about a cache without the teacher, each fault named with its shard, key and remedy."""

import hashlib
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from kdcache.cache.cache import Cache
from kdcache.cache.index import ShardIndex
from kdcache.cache.job import read_ledger
from kdcache.cache.keys import is_safe_key, keys_digest
from kdcache.cache.manifest import ColumnFacts, ShardFacts, fingerprint_bytes
from kdcache.cache.paths import INDEX, JOB, LEDGER, SAMPLES
from kdcache.cache.record import Array
from kdcache.cache.sample import Sample
from kdcache.cache.tar import read_members
from kdcache.cache.writer import META_MEMBER
from kdcache.durable import sha256_file
from kdcache.errors import CorruptCacheError

REPAIR = "run `kdcache verify --repair`, then the same `kdcache extract` again"
REBUILD = "run `kdcache verify --rebuild`"
_MAX_KEYS_NAMED = 5


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong.

    Args:
        shard: Shard name, empty when it concerns the cache as a whole.
        part: ``samples``, ``index``, ``ledger``, a column, or a file name.
        key: The image concerned, empty when the whole file is.
        problem: What was found and what was wanted.
        remedy: What to do.
    """

    shard: str
    part: str
    key: str
    problem: str
    remedy: str

    def __str__(self) -> str:
        where = " ".join(word for word in (self.shard, self.part, f"key {self.key!r}" if self.key else "") if word)
        return f"{where}: {self.problem}; {self.remedy}"


def verify_shard(cache: Cache, shard: ShardFacts) -> list[Fault]:
    """Check one shard: sizes, hashes, headers, samples against index, records against checksums, finite values."""
    faults: list[Fault] = []
    try:
        faults.extend(_shard_faults(cache, shard))
    except CorruptCacheError as error:
        faults.append(Fault(shard.name, "", "", str(error), REPAIR))
    return faults


def _shard_faults(cache: Cache, shard: ShardFacts) -> Iterator[Fault]:
    broken: set[str] = set()
    for part in shard.files:
        problem = _file_problem(cache, part, shard)
        if problem:
            broken.add(part)
            if part in (SAMPLES, INDEX, LEDGER):
                yield Fault(shard.name, part, "", problem, REBUILD if part == INDEX else REPAIR)
    if INDEX in broken:
        for part in sorted(broken - {SAMPLES, INDEX, LEDGER}):
            yield Fault(shard.name, part, "", _file_problem(cache, part, shard), REPAIR)
        return
    index = cache.index(shard)
    yield from _index_faults(cache, shard, index)
    if SAMPLES not in broken:
        yield from _sample_faults(cache, shard, index)
    for column in cache.manifest.fingerprint.columns:
        faults = list(_column_faults(cache, column, shard, index))
        if column.name in broken and not faults:
            faults = [Fault(shard.name, column.name, "", _file_problem(cache, column.name, shard), REPAIR)]
        yield from faults[:_MAX_KEYS_NAMED]
        if len(faults) > _MAX_KEYS_NAMED:
            rest = len(faults) - _MAX_KEYS_NAMED
            yield Fault(shard.name, column.name, "", f"{rest} more records like these", REPAIR)


def verify_whole(cache: Cache) -> Iterator[Fault]:
    """Check what concerns all shards together: keys unique and complete, no files that nobody named."""
    seen: dict[str, str] = {}
    source_keys: list[str] = []
    for shard in cache.manifest.shards:
        try:
            index = cache.index(shard)
            bad, _ = read_ledger(cache.paths, shard.name)
        except (CorruptCacheError, OSError):
            return  # already reported by verify_shard, and nothing can be said about the whole
        for row in range(len(index)):
            key = index.key(row)
            if key in seen:
                problem = f"also in shard {seen[key]}"
                yield Fault(shard.name, INDEX, key, problem, "extract again into another folder")
            seen[key] = shard.name
        planned = [index.sample(row).source_key for row in range(len(index))]
        for each in sorted(bad, key=lambda each: each.position):
            planned.insert(each.position, each.source_key)
        source_keys += planned
    if keys_digest(source_keys) != cache.manifest.fingerprint.source.keys_sha256:
        problem = f"the {len(source_keys)} source keys of all shards are not the ones of the plan"
        yield Fault("", "manifest.json", "", problem, "extract again into another folder")
    yield from _stray_files(cache)


def _file_problem(cache: Cache, part: str, shard: ShardFacts) -> str:
    path = cache.paths.shard(part, shard.name)
    facts = shard.files[part]
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


def _index_faults(cache: Cache, shard: ShardFacts, index: ShardIndex) -> Iterator[Fault]:
    fingerprint = cache.manifest.fingerprint
    if len(index) != shard.num_samples:
        problem = f"{len(index)} samples found, {shard.num_samples} wanted"
        yield Fault(shard.name, INDEX, "", problem, REBUILD)
    shape = (fingerprint.views.num_views, len(fingerprint.views.fields))
    if index.views.shape[1:] != shape:
        yield Fault(shard.name, INDEX, "", f"views of shape {index.views.shape[1:]} found, {shape} wanted", REBUILD)
    for row in range(len(index)):
        if not is_safe_key(index.key(row)):
            yield Fault(shard.name, INDEX, index.key(row), "not a key of this format", REBUILD)
    for column in fingerprint.columns:
        held = index.columns.get(column.name)
        if held is None or (held.offset0, held.stride) != (0, column.stride_bytes):
            yield Fault(shard.name, INDEX, "", f"column {column.name} is missing or has another stride", REBUILD)


def _sample_faults(cache: Cache, shard: ShardFacts, index: ShardIndex) -> Iterator[Fault]:
    path = cache.paths.shard(SAMPLES, shard.name)
    fingerprint = cache.manifest.fingerprint
    row = 0
    with path.open("rb") as file:
        for member in read_members(path):
            file.seek(member.offset)
            data = file.read(member.size_bytes)
            if member.name == META_MEMBER:
                if data != fingerprint_bytes(fingerprint):
                    yield Fault(shard.name, SAMPLES, "", "made by another plan than the manifest's", REPAIR)
            elif member.name.endswith(".json"):
                key = member.name.removesuffix(".json")
                sample = Sample.from_json(key, data, tuple(fingerprint.views.fields), where=f"{path}, {member.name}")
                if row >= len(index) or sample != index.sample(row):
                    yield Fault(shard.name, SAMPLES, key, "not what the index says of it", REBUILD)
                row += 1
            elif row == 0 or hashlib.sha256(data).digest() != index.source_sha256[row - 1].tobytes():
                yield Fault(shard.name, SAMPLES, member.name, "the image's bytes are not the source's", REPAIR)
    if row != len(index):
        yield Fault(shard.name, SAMPLES, "", f"{row} samples found, {len(index)} wanted by the index", REBUILD)


def _column_faults(cache: Cache, column: ColumnFacts, shard: ShardFacts, index: ShardIndex) -> Iterator[Fault]:
    strided = cache.strided(column, shard)
    try:
        payloads = strided.payloads()
        strided.check_headers(cache.member_names(index))
    except (CorruptCacheError, OSError) as error:
        yield Fault(shard.name, column.name, "", str(error).split(";")[0], REPAIR)
        return
    checksums = index.columns[column.name].crc32
    num_views = cache.manifest.fingerprint.views.num_views
    for record in range(len(payloads)):
        payload = np.ascontiguousarray(payloads[record : record + 1])
        problem = ""
        if zlib.crc32(payload.tobytes()) != int(checksums[record]):
            problem = "bytes differ from what was written"
        elif not _is_finite(column, strided.layout.unpack(payload)):
            problem = "holds NaN, Inf or an impossible index"
        if problem:
            key, view = index.key(record // num_views), record % num_views
            yield Fault(shard.name, column.name, key, f"view {view} {problem}", REPAIR)


def _is_finite(column: ColumnFacts, fields: dict[str, Array]) -> bool:
    try:
        return bool(np.isfinite(column.make_codec().decode(fields, tuple(column.shape))).all())
    except IndexError:
        return False


def _stray_files(cache: Cache) -> Iterator[Fault]:
    parts = [SAMPLES, INDEX, LEDGER, *(column.name for column in cache.manifest.fingerprint.columns)]
    named = {cache.paths.shard(part, shard.name) for part in parts for shard in cache.manifest.shards}
    for part in parts:
        for path in sorted((cache.paths.root / part).iterdir()):
            if path not in named:
                yield Fault("", f"{part}/{path.name}", "", "no manifest names this file", "remove it")
    for path in sorted(cache.paths.root.iterdir()):
        if path.is_dir() and path.name not in (*parts, JOB):
            yield Fault("", path.name, "", "no manifest names this folder", "remove it")
