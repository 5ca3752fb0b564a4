"""Mending a cache: set damaged shards aside for a rerun, or rebuild index and manifest from the tars."""

import contextlib
import zlib
from collections.abc import Sequence

import numpy as np

from kdcache.cache.index import ShardIndex, index_bytes, read_index
from kdcache.cache.job import CacheJob, assemble_manifest, read_ledger
from kdcache.cache.manifest import (
    FileFacts,
    Fingerprint,
    Manifest,
    fingerprint_bytes,
    read_fingerprint,
    read_manifest,
    write_manifest,
)
from kdcache.cache.paths import INDEX, LEDGER, SAMPLES, CachePaths
from kdcache.cache.sample import Sample
from kdcache.cache.shard import StridedShard, member_name
from kdcache.cache.tar import Member, read_members
from kdcache.cache.verify import REPAIR
from kdcache.cache.writer import META_MEMBER, ColumnBuilder, ledger_bytes
from kdcache.durable import make_folder, remove_stale_temporaries, sha256_file, write_file
from kdcache.errors import CorruptCacheError, IncompleteCacheError


def set_aside(job: CacheJob, fingerprint: Fingerprint, shards: Sequence[str]) -> None:
    """Move damaged shards to ``job/damaged/`` and withdraw the manifest, so that the same extraction writes them again.

    Args:
        job: The right to write to the cache.
        fingerprint: The cache's.
        shards: Names of the shards to withdraw.
    """
    paths = job.paths
    write_file(paths.job / "plan.json", fingerprint_bytes(fingerprint))
    paths.manifest.unlink(missing_ok=True)
    # The index goes first: without it the shard is not done, whatever else is left when this is interrupted.
    parts = [INDEX, LEDGER, SAMPLES, *(column.name for column in fingerprint.columns)]
    for name in shards:
        for part in parts:
            path = paths.shard(part, name)
            if path.is_symlink() or path.exists():
                aside = paths.job / "damaged" / part
                make_folder(aside)
                path.replace(aside / path.name)


def rebuild(job: CacheJob) -> Manifest:
    """Make every index and the manifest again from the tars (and the ledgers, where they still are).

    Raises: IncompleteCacheError when shards are missing, CorruptCacheError when tars are damaged or of several plans.
    """
    paths = job.paths
    remove_stale_temporaries(paths.root)
    fingerprint = _common_fingerprint(paths)
    job.fingerprint = fingerprint
    shards = [shard.name for shard in job.planned_shards()]
    missing = [name for name in shards if not paths.shard(SAMPLES, name).is_file()]
    if missing:
        raise IncompleteCacheError(
            f"{paths.root}: {len(missing)} of {len(shards)} shards are missing ({', '.join(missing[:5])}, …); "
            "run the same `kdcache extract` command again, it makes only those"
        )
    _refuse_damaged_tars(paths, fingerprint, shards)
    for name in shards:
        data = index_bytes(_rebuild_index(paths, fingerprint, name))
        make_folder(paths.root / INDEX)
        paths.shard(INDEX, name).unlink(missing_ok=True)
        write_file(paths.shard(INDEX, name), data, replace=False)
    manifest = assemble_manifest(paths, fingerprint, shards)
    write_manifest(paths, manifest)
    return manifest


def _refuse_damaged_tars(paths: CachePaths, fingerprint: Fingerprint, shards: Sequence[str]) -> None:
    """A rebuild must not bless damaged bytes: whatever hash is still known must hold."""
    known: dict[str, dict[str, FileFacts]] = {}
    for name in shards:
        with contextlib.suppress(CorruptCacheError, FileNotFoundError):
            known[name] = read_index(paths.shard(INDEX, name)).files
    with contextlib.suppress(CorruptCacheError, IncompleteCacheError):
        known |= {shard.name: shard.files for shard in read_manifest(paths)[0].shards}
    for name in shards:
        for part in (SAMPLES, *(facts.name for facts in fingerprint.columns)):
            path = paths.shard(part, name)
            facts = known.get(name, {}).get(part)
            if facts is not None and sha256_file(path) != facts.sha256:
                raise CorruptCacheError(f"{path}: bytes differ from what was written (sha256); {REPAIR}")


def _common_fingerprint(paths: CachePaths) -> Fingerprint:
    folder = paths.root / SAMPLES
    tars = sorted(folder.glob("*.tar")) if folder.is_dir() else []
    if not tars:
        raise IncompleteCacheError(f"{folder}: no shards to rebuild from; extract again with `kdcache extract`")
    found: dict[bytes, str] = {}
    for path in tars:
        first = next(read_members(path), None)
        if first is None or first.name != META_MEMBER:
            raise CorruptCacheError(f"{path}: does not begin with the member {META_MEMBER!r}; restore the shard")
        with path.open("rb") as file:
            file.seek(first.offset)
            found.setdefault(file.read(first.size_bytes), path.name)
    if len(found) > 1:
        raise CorruptCacheError(f"{folder}: shards of different plans lie here ({', '.join(found.values())}, …)")
    data, name = found.popitem()
    return read_fingerprint(data, where=f"{folder / name}, {META_MEMBER}")


def _rebuild_index(paths: CachePaths, fingerprint: Fingerprint, name: str) -> ShardIndex:
    samples, images = _read_samples(paths, fingerprint, name)
    views = fingerprint.views
    index = ShardIndex.from_samples(samples, images, num_views=views.num_views, num_view_fields=len(views.fields))
    num_records = len(samples) * views.num_views
    for facts in fingerprint.columns:
        builder = ColumnBuilder(facts, fingerprint)
        strided = StridedShard(paths.shard(facts.name, name), facts.layout(), num_records)
        payloads = strided.payloads()
        strided.check_headers([member_name(each.key, view) for each in samples for view in range(views.num_views)])
        # The same batches as in the extraction, so that floating-point sums come out the same to the bit.
        for start in range(0, num_records, fingerprint.batch_size):
            rows = np.ascontiguousarray(payloads[start : start + fingerprint.batch_size])
            checksums = np.array([zlib.crc32(row.tobytes()) for row in rows], np.uint32)
            builder.add(builder.codec.decode(builder.layout.unpack(rows), builder.shape), checksums)
        index.columns[facts.name] = builder.finish()
    if not paths.shard(LEDGER, name).is_file():
        make_folder(paths.root / LEDGER)
        write_file(paths.shard(LEDGER, name), ledger_bytes([], {}), replace=False)
    read_ledger(paths, name)
    for part in (SAMPLES, *(facts.name for facts in fingerprint.columns), LEDGER):
        index.files[part] = FileFacts.read(paths.shard(part, name))
    return index


def _read_samples(paths: CachePaths, fingerprint: Fingerprint, name: str) -> tuple[list[Sample], list[Member | None]]:
    path = paths.shard(SAMPLES, name)
    samples: list[Sample] = []
    images: list[Member | None] = []
    with path.open("rb") as file:
        for member in read_members(path):
            if member.name == META_MEMBER:
                continue
            if not member.name.endswith(".json"):
                if not images:
                    raise CorruptCacheError(f"{path}: image {member.name!r} has no record before it; {REPAIR}")
                images[-1] = member
                continue
            file.seek(member.offset)
            key = member.name.removesuffix(".json")
            data = file.read(member.size_bytes)
            where = f"{path}, {member.name}"
            samples.append(Sample.from_json(key, data, tuple(fingerprint.views.fields), where=where))
            images.append(None)
    return samples, images
