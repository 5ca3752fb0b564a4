"""A shard whose files are open, as the reader keeps it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import final

from typing_extensions import Buffer

from kdcache.cache.group_index import PixelIndex
from kdcache.cache.index import ShardIndex
from kdcache.reading.files import OpenFile
from kdcache.reading.record_sums import RecordSums, check_record


@final
@dataclass
class OpenShard:
    """One shard, checked and open; its files are closed when the last user is gone.

    Args:
        name: Shard name.
        index: Its index, without the statistics.
        files: Open files by part.
        jpegs: Where its JPEG records lie, if they are read.
        sums: Checksums of its records, if they are compared.
    """

    name: str
    index: ShardIndex
    files: dict[str, OpenFile]
    jpegs: PixelIndex | None = None
    sums: RecordSums = field(default_factory=dict)

    def check_record(self, part: str, row: int, view: int, num_views: int, fields: Sequence[Buffer]) -> None:
        """Compare a record with its checksum, if checksums are known. Raises: CorruptCacheError."""
        if part in self.sums:
            where = f"{self.files[part].path}: {self.index.key(row)}, view {view}"
            check_record(fields, int(self.sums[part][row * num_views + view]), where=where)

    @property
    def mapped_bytes(self) -> int:
        """Bytes of its files that are mapped."""
        return sum(file.mapped_bytes for file in self.files.values())
