"""Rebuilding indexes and manifests from the tars, for the base and for every group."""

import contextlib
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from kdcache.cache.assembly import assemble_base, assemble_group
from kdcache.cache.base import BaseFingerprint, BaseManifest, planned_shards, read_base
from kdcache.cache.column_builder import ColumnBuilder
from kdcache.cache.ecosystem import write_base_files, write_group_files
from kdcache.cache.facts import JPEG, ColumnFacts, Facts, FileFacts
from kdcache.cache.fidelity import Fidelity
from kdcache.cache.group import GroupFingerprint, GroupManifest
from kdcache.cache.group_index import ColumnIndex, GroupIndex, group_index_bytes, read_group_index
from kdcache.cache.group_writer import PixelBuilder
from kdcache.cache.index import ShardIndex, index_bytes, read_index
from kdcache.cache.job import Job, index_head
from kdcache.cache.manifest import (
    fingerprint_bytes,
    fingerprint_digest,
    read_fingerprint,
    read_manifest,
    write_manifest,
)
from kdcache.cache.paths import INDEX, LEDGER, SAMPLES, CachePaths
from kdcache.cache.rebuild_ledgers import is_lost_bytes, plan_ledgers
from kdcache.cache.sample import Sample
from kdcache.cache.shard import META_MEMBER, StridedShard, member_name, read_meta
from kdcache.cache.tar import Member, read_members
from kdcache.durable import make_folder, remove, remove_stale_temporaries, sha256_file, write_file
from kdcache.errors import CacheMismatchError, CorruptCacheError, IncompleteCacheError, KdcacheError, Remedy
from kdcache.storage import all_errors, entries, open_regular

Record = TypeVar("Record", bound=Facts)


def rebuild_base(job: Job[BaseFingerprint], *, accept_loss: bool = False) -> tuple[BaseManifest, list[str]]:
    """Rebuild every index and the manifest of the base from the samples tars and the ledgers.

    Args:
        job: The right to write to the base.
        accept_loss: Go on where a ledger that names bad images is gone, without their names and reasons.

    Returns: the manifest, and the names of the shards whose ledger was lost.
    Raises: IncompleteCacheError when shards are missing, CorruptCacheError when tars are damaged or of several plans,
        or when a ledger cannot be made again, StorageError; the same again finishes what was begun.
    """
    with all_errors(job.paths.root, "rebuild"):
        return _rebuild_base(job.paths, accept_loss=accept_loss)


def rebuild_group(job: Job[GroupFingerprint], base_paths: CachePaths) -> GroupManifest:
    """Rebuild every index and the manifest of a group from its column tars.

    Args:
        job: The right to write to the group.
        base_paths: Its base, which must be whole.

    Raises: as rebuild_base; CacheMismatchError when the group belongs to another base.
    """
    with all_errors(job.paths.root, "rebuild"):
        return _rebuild_group(job.paths, base_paths)


def _rebuild_base(paths: CachePaths, *, accept_loss: bool) -> tuple[BaseManifest, list[str]]:
    remove_stale_temporaries(paths.root)
    fingerprint = _common_fingerprint(paths, SAMPLES, BaseFingerprint)
    names = [shard.name for shard in planned_shards(fingerprint)]
    _require(paths, [SAMPLES], names)
    known = _refuse_damaged_tars(paths, [SAMPLES], names)
    ledgers = plan_ledgers(
        paths,
        fingerprint,
        {name: files[LEDGER] for name, files in known.items() if LEDGER in files},
        lambda name: [sample.source_key for sample in _read_samples(paths, fingerprint, name)[0]],
        accept_loss=accept_loss,
    )
    for name, data in ledgers.items():
        _replace(paths.shard(LEDGER, name), data)
    for name in names:
        index = _base_index(paths, fingerprint, name)
        _replace(paths.shard(INDEX, name), index_bytes(index))
    manifest = assemble_base(paths, fingerprint, names)
    write_base_files(paths, manifest)
    write_manifest(paths, manifest)
    return manifest, [name for name, data in ledgers.items() if is_lost_bytes(data)]


def _rebuild_group(paths: CachePaths, base_paths: CachePaths) -> GroupManifest:
    base, base_digest = read_base(base_paths)
    remove_stale_temporaries(paths.root)
    columns = [path.name for path in entries(paths.root) if path.is_dir() and entries(path, suffix=".tar")]
    if not columns:
        raise IncompleteCacheError(f"{paths}: no shards to rebuild from; delete the folder, or extract again")
    fingerprint = _common_fingerprint(paths, columns[0], GroupFingerprint)
    if fingerprint.base != fingerprint_digest(base.fingerprint):
        raise CacheMismatchError(f"{paths}: its tars were made for another base than {base_paths}")
    names = [shard.name for shard in base.shards]
    parts = [column.name for column in fingerprint.columns]
    _require(paths, parts, names)
    _refuse_damaged_tars(paths, parts, names)
    for name in names:
        keys = read_index(base_paths.shard(INDEX, name))
        _replace(paths.shard(INDEX, name), group_index_bytes(_group_index(paths, fingerprint, base, name, keys)))
    manifest = assemble_group(paths, fingerprint, base, base_digest)
    write_group_files(paths, manifest, base)
    write_manifest(paths, manifest)
    return manifest


def _replace(path: Path, data: bytes) -> None:
    make_folder(path.parent)
    remove(path)
    write_file(path, data, replace=False)


def _require(paths: CachePaths, parts: Sequence[str], names: Sequence[str]) -> None:
    missing = [name for name in names if not all(paths.shard(part, name).is_file() for part in parts)]
    if missing:
        raise IncompleteCacheError(
            f"{paths}: {len(missing)} of {len(names)} shards are missing ({', '.join(missing[:5])}, …)",
            remedy=Remedy.FINISH_EXTRACTION,
        )


def _refuse_damaged_tars(
    paths: CachePaths, parts: Sequence[str], names: Sequence[str]
) -> dict[str, dict[str, FileFacts]]:
    """A rebuild must not accept damaged bytes: whatever hash is still known must hold.

    Returns: by shard and part, what is known.
    """
    heads = {name: index_head(paths, name) for name in names}
    known = {name: {} if head is None else head.files for name, head in heads.items()}
    kind = BaseManifest if SAMPLES in parts else GroupManifest
    with contextlib.suppress(CorruptCacheError, IncompleteCacheError):
        known |= {shard.name: shard.files for shard in read_manifest(paths, kind)[0].shards}
    for name in names:
        for part in parts:
            path = paths.shard(part, name)
            facts = known[name].get(part)
            if facts is not None and sha256_file(path) != facts.sha256:
                raise CorruptCacheError(f"{path}: bytes differ from what was written (sha256)", remedy=Remedy.REPAIR)
    return known


def _common_fingerprint(paths: CachePaths, part: str, kind: type[Record]) -> Record:
    folder = paths.root / part
    tars = entries(folder, suffix=".tar")
    if not tars:
        raise IncompleteCacheError(f"{folder}: no shards to rebuild from", remedy=Remedy.EXTRACT, path=paths.root)
    found: dict[bytes, str] = {}
    for path in tars:
        found.setdefault(read_meta(path), path.name)
    if len(found) > 1:
        raise CorruptCacheError(f"{folder}: shards of different plans are here ({', '.join(found.values())}, …)")
    data, name = found.popitem()
    return read_fingerprint(data, kind, where=f"{folder / name}, {META_MEMBER}")


def _base_index(paths: CachePaths, fingerprint: BaseFingerprint, name: str) -> ShardIndex:
    samples, images = _read_samples(paths, fingerprint, name)
    views = fingerprint.views
    index = ShardIndex.from_samples(
        samples,
        images,
        plan=fingerprint_digest(fingerprint),
        num_views=views.num_views,
        num_view_fields=len(views.fields),
    )
    for part in (SAMPLES, LEDGER):
        index.files[part] = FileFacts.read(paths.shard(part, name))
    return index


def _read_samples(
    paths: CachePaths, fingerprint: BaseFingerprint, name: str
) -> tuple[list[Sample], list[Member | None]]:
    path = paths.shard(SAMPLES, name)
    samples: list[Sample] = []
    images: list[Member | None] = []
    with open_regular(path) as file:
        for member in read_members(path):
            if member.name == META_MEMBER:
                continue
            if not member.name.endswith(".json"):
                if not images:
                    raise CorruptCacheError(
                        f"{path}: image {member.name!r} has no record before it", remedy=Remedy.REPAIR
                    )
                images[-1] = member
                continue
            file.seek(member.offset)
            key = member.name.removesuffix(".json")
            data = file.read(member.size_bytes)
            where = f"{path}, {member.name}"
            samples.append(Sample.from_json(key, data, tuple(fingerprint.views.fields), where=where))
            images.append(None)
    return samples, images


def _group_index(
    paths: CachePaths, fingerprint: GroupFingerprint, base: BaseManifest, name: str, keys: ShardIndex
) -> GroupIndex:
    index = GroupIndex(fingerprint_digest(fingerprint))
    views = range(base.fingerprint.views.num_views)
    meta = fingerprint_bytes(fingerprint)
    fidelity = _known_fidelity(paths.shard(INDEX, name))
    for facts in fingerprint.columns:
        path = paths.shard(facts.name, name)
        extension = "jpg" if facts.codec == JPEG else "npy"
        names = [member_name(keys.key(row), view, extension) for row in range(len(keys)) for view in views]
        if facts.kind == "pixels":
            index.pixels[facts.name] = _pixel_builder(path, facts, names).finish()
        else:
            strided = StridedShard(path, facts.layout(), len(names), meta)
            strided.check_headers(names)
            builder = _column_builder(strided, facts, fingerprint, base.fingerprint)
            index.columns[facts.name] = builder.finish(fidelity.get(facts.name))
        index.files[facts.name] = FileFacts.read(path)
    return index


def _column_builder(
    strided: StridedShard, facts: ColumnFacts, fingerprint: GroupFingerprint, base: BaseFingerprint
) -> ColumnBuilder:
    builder = ColumnBuilder(facts, fingerprint.statistics, base)
    payloads = strided.payloads()
    # The same batches as in the extraction, so that floating-point sums come out the same to the bit.
    for start in range(0, len(payloads), fingerprint.batch_size):
        rows = np.ascontiguousarray(payloads[start : start + fingerprint.batch_size])
        checksums = np.array([zlib.crc32(row.tobytes()) for row in rows], np.uint32)
        builder.add(builder.codec.decode(builder.layout.unpack(rows), builder.shape), checksums)
    return builder


def _pixel_builder(path: Path, facts: ColumnFacts, names: Sequence[str]) -> PixelBuilder:
    builder = PixelBuilder(facts)
    members = [member for member in read_members(path) if member.name != META_MEMBER]
    if [member.name for member in members] != list(names):
        raise CorruptCacheError(f"{path}: its members are not those of the samples, in order", remedy=Remedy.REPAIR)
    header = 0 if facts.codec == JPEG else len(facts.layout().header)
    with open_regular(path) as file:
        for member in members:
            file.seek(member.offset + header)
            data = file.read(member.size_bytes - header)
            builder.add(zlib.crc32(data), member.offset + header, len(data))
    return builder


def _known_fidelity(path: Path) -> dict[str, Fidelity]:
    """Fidelity of the codecs from an index that is still readable: the tars alone do not give it."""
    try:
        columns: dict[str, ColumnIndex] = read_group_index(path).columns
    except KdcacheError:
        return {}
    return {name: column.fidelity for name, column in columns.items() if column.fidelity is not None}
