"""Writing one shard of a group: batch by batch, and then all of its columns at once."""

import zlib
from collections.abc import Mapping, Sequence

import numpy as np

from kdcache.cache.base import BaseFingerprint
from kdcache.cache.column_builder import ColumnBuilder
from kdcache.cache.encoded import EncodedRecords
from kdcache.cache.facts import JPEG, ColumnFacts
from kdcache.cache.fidelity import Fidelity
from kdcache.cache.group import GroupFingerprint
from kdcache.cache.group_index import GroupIndex, PixelIndex, group_index_bytes
from kdcache.cache.manifest import fingerprint_bytes, fingerprint_digest
from kdcache.cache.paths import INDEX, CachePaths
from kdcache.cache.record import Array
from kdcache.cache.shard import META_MEMBER, append_records, member_name
from kdcache.cache.writer import TarsWriter
from kdcache.durable import write_file
from kdcache.errors import BadRecordError, Remedy

STATISTICS_LEVELS = ("full", "light")
Names = Sequence[tuple[str, int]]


class GroupShardWriter(TarsWriter):
    """Writes one shard of a group; nothing of it is visible before `commit`, all of it afterwards.

    Args:
        paths: The group.
        fingerprint: How it is made.
        base: How its base is made.
        name: The shard.

    Attributes:
        columns: What is gathered of each column of tokens, logits or embeddings.
        fidelity: Of each column's codec, so far.
    """

    def __init__(self, paths: CachePaths, fingerprint: GroupFingerprint, base: BaseFingerprint, name: str) -> None:
        super().__init__(paths, name, [facts.name for facts in fingerprint.columns])
        self._fingerprint = fingerprint
        tokens = [facts for facts in fingerprint.columns if facts.kind != "pixels"]
        self.columns = {facts.name: ColumnBuilder(facts, fingerprint.statistics, base) for facts in tokens}
        self.fidelity = {facts.name: Fidelity() for facts in tokens}
        self._pixels = {facts.name: PixelBuilder(facts) for facts in fingerprint.columns if facts.kind == "pixels"}

    def add_records(
        self, names: Names, values: Mapping[str, Array], encoded: Mapping[str, EncodedRecords] | None = None
    ) -> None:
        """Add the teacher's outputs for the next views.

        Args:
            names: (key, view) of each record, in the order of the samples.
            values: For each tap of the group's columns that are not in `encoded`, float32 (B, *shape).
            encoded: Columns whose records were encoded where the teacher runs, by name.

        Raises: BadRecordError if a value is not finite, or does not stay finite under the codec.
        """
        members = [member_name(key, view) for key, view in names]
        for name, column in self.columns.items():
            done = (encoded or {}).get(name)
            if done is not None:
                self.fidelity[name].merge(done.fidelity)
                column.add_encoded(done, append_records(self.tars[name], column.layout, members, done.payload))
                continue
            given = values[column.facts.tap]
            _refuse_non_finite(given, names, column.facts, "the teacher gives")
            fields = column.codec.encode(given)
            decoded = column.codec.decode(fields, column.shape)
            _refuse_non_finite(decoded, names, column.facts, f"codec {column.facts.codec} makes of the teacher's value")
            if column.facts.kind == "logits":
                # They are known up to a constant, and what they are for is probabilities.
                self.fidelity[name].update(_softmax(given), _softmax(decoded), by_channel=False)
            else:
                self.fidelity[name].update(given, decoded)
            column.add(decoded, append_records(self.tars[name], column.layout, members, column.layout.pack(fields)))

    def add_pixels(self, names: Names, pixels: Array, jpegs: Sequence[bytes] | None) -> None:
        """Add the pixels of the next views, where the group stores them.

        Args:
            names: (key, view) of each record.
            pixels: (B, S, S, 3) uint8.
            jpegs: The same views as JPEG files; needed by a JPEG column only.
        """
        for name, builder in self._pixels.items():
            if builder.facts.codec == JPEG:
                assert jpegs is not None, "a column of JPEG needs the files"
                for (key, view), data in zip(names, jpegs, strict=True):
                    member = self.tars[name].append(member_name(key, view, "jpg"), data)
                    builder.add(zlib.crc32(data), member.offset, len(data))
                continue
            layout = builder.facts.layout()
            header = layout.header
            for (key, view), image in zip(names, pixels, strict=True):
                data = np.ascontiguousarray(image).reshape(-1).data
                member = self.tars[name].append(member_name(key, view), header, data)
                builder.add(zlib.crc32(data), member.offset + len(header), len(data))

    @property
    def num_records(self) -> dict[str, int]:
        """Records so far, by column."""
        return {name: each.num_records for name, each in {**self.columns, **self._pixels}.items()}

    def commit(self) -> GroupIndex:
        """Make the shard visible: the column tars, then the index that names them all."""
        for tar in self.tars.values():
            tar.append(META_MEMBER, fingerprint_bytes(self._fingerprint))
        index = GroupIndex(
            plan=fingerprint_digest(self._fingerprint),
            columns={name: column.finish(self.fidelity[name]) for name, column in self.columns.items()},
            pixels={name: builder.finish() for name, builder in self._pixels.items()},
            files=self.commit_tars(),
        )
        write_file(self.paths.shard(INDEX, self.name), group_index_bytes(index), replace=False)
        return index


class PixelBuilder:
    """Builds the index of a column of pixels from its records as they pass."""

    def __init__(self, facts: ColumnFacts) -> None:
        self.facts = facts
        self._rows: list[tuple[int, int, int]] = []

    def add(self, crc32: int, offset: int, size: int) -> None:
        """Take in one record."""
        self._rows.append((crc32, offset, size))

    @property
    def num_records(self) -> int:
        """Records so far."""
        return len(self._rows)

    def finish(self) -> PixelIndex:
        """The column's part of the index."""
        rows = np.array(self._rows, np.int64).reshape(-1, 3)
        return PixelIndex(crc32=rows[:, 0].astype(np.uint32), offsets=rows[:, 1].copy(), sizes=rows[:, 2].copy())


def _softmax(logits: Array) -> Array:
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def _refuse_non_finite(values: Array, names: Sequence[tuple[str, int]], facts: ColumnFacts, who: str) -> None:
    finite = np.isfinite(values)
    if finite.all():
        return
    position = tuple(int(each) for each in np.argwhere(~finite)[0])
    key, view = names[position[0]]
    raise BadRecordError(
        f"{who} {values[position]} for key {key!r}, view {view}, tap {facts.tap} at position {list(position[1:])}; "
        "a cache holds finite numbers only. Finished shards are safe",
        remedy=Remedy.WIDER_CODEC,
    )
