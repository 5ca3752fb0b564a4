"""Records from shards straight into batch buffers, by address and without parsing.

`preadv` fills all fields of a record with one system call. A file that became shorter gives a short read and an error
here, where a memory map would kill the process.
"""

import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np

from kdcache.cache.cache import Cache
from kdcache.cache.index import ShardIndex
from kdcache.cache.manifest import ColumnFacts
from kdcache.cache.paths import SAMPLES
from kdcache.errors import CorruptCacheError

CheckPolicy = Literal["full", "size"]
_MAX_OPEN_SHARDS = 128


@dataclass
class OpenShard:
    """One shard, checked and open; closes its files when the last user is gone.

    Args:
        name: Shard name.
        index: Its index, without the statistics.
        descriptors: Open files by part.
    """

    name: str
    index: ShardIndex
    descriptors: dict[str, int] = field(default_factory=dict)

    def __del__(self) -> None:
        for descriptor in self.descriptors.values():
            os.close(descriptor)

    def read_exactly(self, part: str, buffers: Sequence[memoryview], offset: int) -> None:
        """Fill the buffers one after the other from one place of a file.

        Raises: CorruptCacheError when the file ends before.
        """
        wanted = sum(len(buffer) for buffer in buffers)
        found = os.preadv(self.descriptors[part], buffers, offset)
        if found != wanted:
            raise CorruptCacheError(
                f"{part}/{self.name}.tar: {found} of {wanted} bytes at offset {offset}; the file became shorter while "
                "it was read. Run `kdcache verify --repair`, then the same `kdcache extract` again"
            )


class ShardReader:
    """Opens shards of a cache on demand and reads their records; safe to use from several threads.

    Args:
        cache: The cache.
        columns: Columns that will be read.
        check: ``full`` compares the sha256 of a shard's files with the manifest when it is first used, ``size`` only
            their sizes. Headers are compared with the index's keys either way.
    """

    def __init__(self, cache: Cache, columns: Sequence[ColumnFacts], *, check: CheckPolicy = "full") -> None:
        if check not in get_args(CheckPolicy):
            raise ValueError(f"check must be full or size, got {check!r}")
        self.cache = cache
        self.columns = list(columns)
        self._layouts = {column.name: column.layout() for column in columns}
        self._num_views = cache.manifest.fingerprint.views.num_views
        self._check: CheckPolicy = check
        self._checked: set[int] = set()
        self._open: OrderedDict[int, OpenShard] = OrderedDict()
        self._lock = threading.Lock()
        self._starts = np.cumsum([0, *(shard.num_samples for shard in cache.manifest.shards)])

    def locate(self, sample: int) -> tuple[OpenShard, int]:
        """The shard that holds a sample, and the sample's row in it."""
        number = int(np.searchsorted(self._starts, sample, side="right")) - 1
        return self._shard(number), sample - int(self._starts[number])

    def read_record(
        self, shard: OpenShard, row: int, view: int, column: ColumnFacts, into: Sequence[memoryview]
    ) -> None:
        """Fill the fields of one record.

        Args:
            shard, row: From `locate`.
            view: View number.
            column: One of the reader's columns.
            into: One buffer per field of the column's layout.
        """
        layout = self._layouts[column.name]
        record = row * self._num_views + view
        shard.read_exactly(column.name, into, record * layout.stride_bytes + layout.payload_offset)

    def decode_record(self, shard: OpenShard, row: int, view: int, column: ColumnFacts) -> np.ndarray:
        """One record's decoded values, float32, in memory of their own; arguments as in `read_record`."""
        fields = {each.name: np.empty((1, *each.shape), each.dtype) for each in self._layouts[column.name].fields}
        into = [values.reshape(-1).view(np.uint8).data for values in fields.values()]
        self.read_record(shard, row, view, column, into)
        return column.make_codec().decode(fields, tuple(column.shape))[0]

    def read_image(self, shard: OpenShard, row: int) -> bytes:
        """The embedded source image of a sample."""
        data = bytearray(int(shard.index.image_sizes[row]))
        shard.read_exactly(SAMPLES, [memoryview(data)], int(shard.index.image_offsets[row]))
        return bytes(data)

    def _shard(self, number: int) -> OpenShard:
        with self._lock:
            shard = self._open.get(number)
            if shard is None:
                shard = self._open[number] = self._open_shard(number)
                if len(self._open) > _MAX_OPEN_SHARDS:
                    self._open.popitem(last=False)
            else:
                self._open.move_to_end(number)
            return shard

    def _open_shard(self, number: int) -> OpenShard:
        facts = self.cache.manifest.shards[number]
        index = self.cache.index(facts)
        hashes = self._check == "full" and number not in self._checked
        self.cache.check_shard(facts, index, self.columns, hashes=hashes)
        self._checked.add(number)
        index.columns = {}
        shard = OpenShard(facts.name, index)
        for part in (SAMPLES, *self._layouts):
            path = self.cache.paths.shard(part, facts.name)
            shard.descriptors[part] = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        return shard
