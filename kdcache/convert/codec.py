"""Columns of a group decoded and encoded again by another codec, as a new group beside it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import kdcache
from kdcache.cache.base import BaseShard, PlannedShard
from kdcache.cache.cache import Cache, open_cache
from kdcache.cache.codecs import Codec, parse_codec
from kdcache.cache.column import Column
from kdcache.cache.extraction import Extraction, ShardTask
from kdcache.cache.facts import ColumnFacts, ConvertedColumn, ConvertedFacts
from kdcache.cache.group import Group, GroupFingerprint, GroupManifest
from kdcache.cache.group_writer import GroupShardWriter
from kdcache.cache.paths import PIXELS, RESERVED_NAMES, is_safe_name
from kdcache.distributed.env import worker_env
from kdcache.durable import file_pieces
from kdcache.errors import InterruptedRunError, UsageError
from kdcache.interrupt import graceful_stop
from kdcache.teacher.plan import column_name
from kdcache.teacher.writing import refuse_error


@dataclass(frozen=True, kw_only=True)
class CodecConversion:
    """What is converted.

    Args:
        cache: The cache folder.
        codec: As in `parse_codec`.
        group: Whose columns; None for the only one of a teacher.
        columns: Which of them, by name; None for all that the codec is for.
        name: Of the new group; None for ``<group>-<codec>``.
        max_error: As ExtractConfig's, relative to the decoded values that are converted.
    """

    cache: Path
    codec: str
    group: str | None = None
    columns: Sequence[str] | None = None
    name: str | None = None
    max_error: float | None = None

    def __post_init__(self) -> None:
        if self.name is not None and (not is_safe_name(self.name) or self.name in (*RESERVED_NAMES, PIXELS)):
            raise ValueError(
                f"group {self.name!r}: use lower-case letters, digits and '-', none of {', '.join(RESERVED_NAMES)}, "
                f"{PIXELS}"
            )
        if self.max_error is not None and not self.max_error > 0:
            raise ValueError(f"max_error must be above 0, got {self.max_error}")


@dataclass(frozen=True)
class ConvertedGroup:
    """What a conversion made.

    Args:
        name: Of the new group.
        manifest: Of it.
        num_shards, num_skipped: Shards that were written, and that were there before.
    """

    name: str
    manifest: GroupManifest
    num_shards: int
    num_skipped: int


def convert_codec(
    config: CodecConversion, *, on_progress: Callable[[int, int], None] = lambda done, total: None
) -> ConvertedGroup:
    """Write the columns of a group under another codec, as another group; the same again resumes.

    Every file that is read is hashed first. No file of the group that is converted is changed.

    Args:
        config: What to convert.
        on_progress: Called with the shards that are done and all of them.

    Raises: UsageError, BadRecordError for a codec that loses more than `max_error` or cannot hold a value,
        CorruptCacheError for a damaged source, CacheMismatchError where another group of this name was begun.
    """
    cache = open_cache(config.cache)
    group = _source_group(cache, config.group)
    codec = _codec(config.codec)
    columns = _source_columns(cache, group, config.columns, codec)
    name = config.name or f"{group.name}-{codec.name}"
    if name == group.name:
        raise UsageError(f"{cache.paths.root}: group {name} is what is converted; give the new one another name")
    fingerprint = _fingerprint(group, columns, codec)
    base = cache.manifest
    extraction = Extraction(
        cache.paths.root, base.fingerprint, {name: fingerprint}, worker_env().job_id, writes_base=False
    )
    try:
        starts = np.cumsum([0, *(shard.num_samples for shard in base.shards)]).tolist()
        num_written = 0
        with graceful_stop() as stop:
            for number, shard in enumerate(base.shards):
                task = extraction.task(PlannedShard(shard.name, starts[number], shard.num_samples))
                if stop:
                    raise InterruptedRunError(
                        f"stopped by signal {stop.signal_number} after {number} of {len(base.shards)} shards; all of "
                        "them are safe. Run the same command again to resume",
                        stop.signal_number or 0,
                    )
                if task is not None:
                    _convert_shard(cache, columns, shard, extraction, task, config.max_error)
                    num_written += 1
                on_progress(number + 1, len(base.shards))
        finished = extraction.finish()
    finally:
        extraction.close()
    assert finished is not None, "every shard was written above"
    return ConvertedGroup(name, finished[1][name], num_written, len(base.shards) - num_written)


def _convert_shard(
    cache: Cache,
    columns: Sequence[Column],
    shard: BaseShard,
    extraction: Extraction,
    task: ShardTask,
    max_error: float | None,
) -> None:
    index = cache.index(shard)
    for column in columns:
        path = cache.check_size(column.name, shard)
        cache.check_hash(column.name, shard, lambda size: None, file_pieces(path))
    cache.check_shard(shard, index, columns)
    records = [(index.key(row), view) for row in range(len(index)) for view in range(cache.num_views)]
    writer = extraction.open_shard(task)
    try:
        [(name, group)] = writer.groups.items()
        _write_records(cache, columns, shard, group, records)
        for column, fidelity in group.fidelity.items():
            refuse_error(f"shard {shard.name}, column {name}/{column}", fidelity.summary(), max_error)
        extraction.commit(writer, [])
    finally:
        writer.discard()


def _write_records(
    cache: Cache,
    columns: Sequence[Column],
    shard: BaseShard,
    writer: GroupShardWriter,
    records: Sequence[tuple[str, int]],
) -> None:
    payloads = {column.tap: (column, cache.strided(column, shard).payloads()) for column in columns}
    batch_size = cache.group(columns[0].group).manifest.fingerprint.batch_size
    # The batches of the pass, so that a rebuild sums in the same order.
    for start in range(0, len(records), batch_size):
        rows = slice(start, start + batch_size)
        values = {
            tap: column.make_codec().decode(
                column.layout().unpack(np.ascontiguousarray(found[rows])), tuple(column.shape)
            )
            for tap, (column, found) in payloads.items()
        }
        writer.add_records(records[rows], values)


def _source_group(cache: Cache, name: str | None) -> Group:
    if name is not None:
        group = cache.group(name)
    else:
        held = [each for each in cache.groups.values() if each.manifest.fingerprint.teacher is not None]
        held = [each for each in held if each.manifest.fingerprint.converted is None] or held
        if len(held) != 1:
            names = ", ".join(each.name for each in held) or "none"
            raise UsageError(f"{cache.paths.root}: which group is to be converted? It holds {names}; name one")
        group = held[0]
    if group.manifest.fingerprint.teacher is None:
        raise UsageError(f"{cache.paths.root}: group {name} holds pixels, which have no codec to convert")
    return group


def _codec(text: str) -> Codec:
    try:
        return parse_codec(text)
    except ValueError as error:
        raise UsageError(str(error)) from None


def _source_columns(cache: Cache, group: Group, names: Sequence[str] | None, codec: Codec) -> list[Column]:
    """The columns to convert; each tap once, and each of a shape that the codec stores."""
    if names is None:
        columns = [each for each in group.columns if codec.for_logits in (None, each.kind == "logits")]
    else:
        columns = [cache.column(name if "/" in name else f"{group.name}/{name}") for name in names]
    held = ", ".join(each.facts.name for each in group.columns)
    if strange := [each.name for each in columns if each.group != group.name]:
        raise UsageError(f"{', '.join(strange)} is not of group {group.name}, which holds {held}")
    if not columns:
        kind = "logits" if codec.for_logits else "features"
        raise UsageError(f"{group.name}: codec {codec.name} stores {kind} only; the group holds {held}")
    for column in columns:
        if [each.tap for each in columns].count(column.tap) > 1:
            raise UsageError(
                f"{group.name} holds {column.tap} more than once; name the column to convert, one of "
                f"{', '.join(each.facts.name for each in columns if each.tap == column.tap)}"
            )
        if codec.for_logits not in (None, column.kind == "logits"):
            kind = "logits" if codec.for_logits else "features"
            raise UsageError(f"column {column.name}: codec {codec.name} stores {kind} only")
        try:
            codec.layout(tuple(column.shape))
        except ValueError as error:
            raise UsageError(f"column {column.name}: {error}; or name the other columns alone") from None
    return columns


def _fingerprint(group: Group, columns: Sequence[Column], codec: Codec) -> GroupFingerprint:
    source = group.manifest
    new = [_column(column.facts, codec) for column in columns]
    pairs = zip(new, columns, strict=True)
    converted = {
        facts.name: ConvertedColumn(
            column=column.facts.name, codec=column.codec, relative_error=source.teacher_error(column.facts.name)
        )
        for facts, column in pairs
    }
    return GroupFingerprint(
        format_version=source.fingerprint.format_version,
        base=source.fingerprint.base,
        teacher=source.fingerprint.teacher,
        batch_size=source.fingerprint.batch_size,
        statistics=source.fingerprint.statistics,
        columns=new,
        versions={"kdcache": kdcache.__version__, "numpy": np.__version__},
        converted=ConvertedFacts(group=group.name, manifest=group.digest, columns=converted),
    )


def _column(source: ColumnFacts, codec: Codec) -> ColumnFacts:
    return ColumnFacts(
        name=column_name(source.tap, codec),
        tap=source.tap,
        kind=source.kind,
        codec=codec.name,
        params=codec.params,
        shape=source.shape,
        grid=source.grid,
        stride_bytes=codec.layout(tuple(source.shape)).stride_bytes,
    )
