"""Records of a cache by number: shards are opened and checked on demand, kept open, and read by address.

One record comes by `preadv`; the records of a batch come by `gather`, straight into its buffers.
"""

from collections.abc import Mapping, Sequence
from typing import final, get_args

import numpy as np

from kdcache.cache.base import BaseShard
from kdcache.cache.cache import Cache
from kdcache.cache.column import Column
from kdcache.cache.group_index import PixelIndex
from kdcache.cache.paths import SAMPLES
from kdcache.cache.record import RecordLayout
from kdcache.cancel import CancelToken
from kdcache.reading.checks import BACKGROUND_BYTES_PER_S, CheckPolicy, ShardChecks
from kdcache.reading.files import Access, OpenFile, ReadMode, choose_access
from kdcache.reading.gather import FileTable, RecordPlaces, files_of, gather
from kdcache.reading.labels import ShardLabels
from kdcache.reading.lru import LRUCache, weakly
from kdcache.reading.open_shard import OpenShard
from kdcache.reading.pieces import ShardRows
from kdcache.reading.record_sums import read_sums
from kdcache.reading.staged import most_open, most_open_in_stream
from kdcache.reading.unchanged import UnchangedFiles

MAX_OPEN_SHARDS = 64


@final
class ShardReader:
    """Opens shards of a cache on demand and reads their records; safe to use from several threads.

    Args:
        cache: The cache.
        columns: Columns that will be read by address.
        jpegs: A column of JPEG files that will be read too.
        check: ``full`` hashes a shard's files when it is first opened, before any of it is used; ``records`` also
            compares every record with its checksum each time it is read; ``background`` leaves hashes to
            `check_unchecked`; ``size`` compares sizes only. Headers are compared with the keys of the index either way.
        access: How batches are read: see files.py.
        with_images: Whether embedded images will be read too.
        max_mapped_bytes, max_open: Beyond these the least recently used shards are closed. One always stays open.

    Raises: ValueError for unknown words, UsageError when the access wanted is impossible, or when files that come from
        object storage do not fit where they go.
    """

    def __init__(
        self,
        cache: Cache,
        columns: Sequence[Column],
        *,
        jpegs: Column | None = None,
        check: CheckPolicy = "full",
        access: Access = "read",
        with_images: bool = True,
        max_mapped_bytes: int | None = None,
        max_open: int = MAX_OPEN_SHARDS,
    ) -> None:
        if check not in get_args(CheckPolicy):
            raise ValueError(f"check must be {', '.join(get_args(CheckPolicy))}, got {check!r}")
        self.cache = cache
        self.columns = list(columns)
        self.access: ReadMode = choose_access(access)
        cache.check_counts()
        self._starts = np.cumsum([0, *(shard.num_samples for shard in cache.manifest.shards)])
        self._layouts = {column.name: column.layout() for column in columns}
        self._num_views = cache.num_views
        self._checks = ShardChecks(cache, check)
        self._sums_of = [*columns, *([jpegs] if jpegs is not None else [])] if check == "records" else []
        self._pass_cancel = CancelToken()
        self._jpegs = jpegs
        # Read piece by piece, never mapped: what is decoded costs far more than a system call.
        self._by_piece = (*([SAMPLES] if with_images else []), *([jpegs.name] if jpegs is not None else []))
        self._parts = (*self._by_piece, *self._layouts)
        max_open = most_open(cache, self._parts, max_open)
        # A weak method: the files of a reader that nobody holds any more are closed at once, not when cycles are found.
        self._open_shards = LRUCache(weakly(self._open), max_mapped_bytes=max_mapped_bytes, max_open=max_open)
        self._places = {
            name: RecordPlaces(self._starts, layout.fields, self._num_views, layout.stride_bytes, layout.payload_offset)
            for name, layout in self._layouts.items()
        }
        self._tables: tuple[Mapping[int, OpenShard], dict[str, FileTable]] | None = None
        self._labels = ShardLabels(self._starts)
        self._unchanged = UnchangedFiles(self._starts, self._parts)

    def stream_windows(self, window: int) -> int:
        """Say that so many shards will be in use together, and others opened ahead. Returns: shards that stay open.

        Raises: UsageError where files that come from object storage would not fit.
        """
        shards = self._open_shards
        shards.max_open = most_open_in_stream(self.cache, self._parts, shards.max_open, window)
        return shards.max_open

    def locate(self, sample: int) -> tuple[OpenShard, int]:
        """The shard that holds a sample, and the sample's row in it."""
        number = int(np.searchsorted(self._starts, sample, side="right")) - 1
        return self.shard(number), sample - int(self._starts[number])

    def rows_of(self, rows: np.ndarray) -> ShardRows:
        """The shards that hold some samples, opened where they are not, and the samples' rows in them.

        Args:
            rows: (n, 2) int64, sample and view numbers.

        Raises: CorruptCacheError.
        """
        numbers = files_of(self._starts, rows)
        shards = {number: self.shard(number) for number in sorted(set(numbers.tolist()))}
        return ShardRows(shards, numbers, rows[:, 0] - self._starts[numbers])

    def gather(self, rows: np.ndarray, into: Mapping[str, Sequence[np.ndarray]]) -> Mapping[int, OpenShard]:
        """Fill rows of a batch.

        Args:
            rows: (n, 2) int64, sample and view numbers.
            into: For each column and each field of it (n, bytes) uint8, contiguous.

        Returns: open shards by number, those of the rows among them.
        Raises: CorruptCacheError.
        """
        while not self.confirm(shards := self._gathered(rows, into), rows):
            pass
        if self._sums_of:
            self._check_records(shards, rows, into)
        return shards

    def _gathered(self, rows: np.ndarray, into: Mapping[str, Sequence[np.ndarray]]) -> Mapping[int, OpenShard]:
        """Fill rows of a batch. Returns: the shards that were open, those of the rows among them."""
        shards = self._open_shards.snapshot()
        tables = self._tables_of(shards)
        for name, places in self._places.items():
            if gather(places, tables[name], rows, into[name]):
                shards = self.shards_of(rows)
                tables = self._tables_of(shards)
                gather(places, tables[name], rows, into[name])
        return shards if self._places else self.shards_of(rows)

    def _check_records(
        self, shards: Mapping[int, OpenShard], rows: np.ndarray, into: Mapping[str, Sequence[np.ndarray]]
    ) -> None:
        for number, (sample, view), at in zip(
            files_of(self._starts, rows).tolist(), rows.tolist(), range(len(rows)), strict=True
        ):
            shard, row = shards[number], sample - int(self._starts[number])
            for name in self._layouts:
                shard.check_record(name, row, view, self._num_views, [field[at] for field in into[name]])

    def confirm(self, shards: Mapping[int, OpenShard], rows: np.ndarray) -> bool:
        """Look whether the files of some rows are still what was checked; those that are not are checked again.

        Args:
            shards: Open ones, those of the rows among them.
            rows: (n, 2) int64, what was just read.

        Returns: False where they must be read again.
        Raises: CorruptCacheError.
        """
        if self._unchanged.hold(shards, rows):
            return True
        self._unchanged.forget()
        touched = {number: shards[number].files for number in set(files_of(self._starts, rows).tolist())}
        return self._checks.confirm(touched, self._parts, self._pass_cancel)

    def decode(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Records' decoded values by column, (n, *shape) float32 each, in memory of their own.

        Args:
            rows: (n, 2) int64, sample and view numbers.
        """
        fields = {name: _empty_fields(layout, len(rows)) for name, layout in self._layouts.items()}
        into = {
            name: [values.reshape(len(rows), -1).view(np.uint8) for values in each.values()]
            for name, each in fields.items()
        }
        self.gather(rows, into)
        return {
            column.name: column.make_codec().decode(fields[column.name], tuple(column.shape)) for column in self.columns
        }

    def shards_of(self, rows: np.ndarray) -> Mapping[int, OpenShard]:
        """Open shards by number, those of some rows among them. Raises: CorruptCacheError."""
        shards, opened = self.rows_of(rows).shards, self._open_shards.snapshot()
        return opened if all(opened.get(number) is shard for number, shard in shards.items()) else shards

    def labels_of(self, rows: np.ndarray, shards: Mapping[int, OpenShard]) -> np.ndarray:
        """Labels of some rows, (n,) int64, -1 where there is none.

        Args:
            rows: (n, 2) int64, sample and view numbers.
            shards: What `gather` gave for them; some may have been closed since.
        """
        return self._labels.of(rows, self._open_shards.snapshot(), shards)

    def _tables_of(self, shards: Mapping[int, OpenShard]) -> dict[str, FileTable]:
        known = self._tables
        if known is not None and known[0] is shards:
            return known[1]
        tables = {
            name: FileTable({number: shard.files[name] for number, shard in shards.items()}, len(self._starts) - 1)
            for name in self._places
        }
        self._tables = shards, tables
        return tables

    def decode_record(self, shard: OpenShard, row: int, view: int, column: Column) -> np.ndarray:
        """One record's decoded values, float32, in memory of their own.

        Args:
            shard, row: From `locate`.
            view: View number.
            column: One of the reader's columns.
        """
        layout = self._layouts[column.name]
        fields = _empty_fields(layout, 1)
        into = [values.reshape(-1).view(np.uint8).data for values in fields.values()]
        record = row * self._num_views + view
        offset = record * layout.stride_bytes + layout.payload_offset
        shard.files[column.name].read_exactly(into, offset, layout.payload_bytes)
        shard.check_record(column.name, row, view, self._num_views, into)
        return column.make_codec().decode(fields, tuple(column.shape))[0]

    def shard(self, number: int, cancel: CancelToken | None = None) -> OpenShard:
        """A shard by its place in the manifest.

        Args:
            number: Its place.
            cancel: For reading ahead: also bring its files into memory, until this is cancelled.

        Raises: CorruptCacheError.
        """
        return self._open_shards.get(number, cancel)

    def begin(self, cancel: CancelToken) -> None:
        """A pass begins: whoever opens a shard for it breaks off when this is cancelled."""
        self._pass_cancel = cancel

    def has(self, number: int) -> bool:
        """Whether a shard is open; asking counts as using it."""
        return self._open_shards.has(number)

    @property
    def unchecked(self) -> set[int]:
        """Numbers of shards that are in use and are still to be hashed."""
        return self._checks.unchecked

    def check_unchecked(self, cancel: CancelToken, finish: CancelToken) -> None:
        """Hash the shards that were opened and not hashed, at BACKGROUND_BYTES_PER_S.

        Args:
            cancel: Ends the work at the next piece of a file.
            finish: Ends it after the present shard.

        Raises: CorruptCacheError, Cancelled.
        """
        for number in sorted(self.unchecked.copy()):
            if finish.cancelled:
                return
            shard = self._open_shards.snapshot().get(number)
            files = self._open_files(number, mapped=False) if shard is None else shard.files
            self._checks.hash(number, files, cancel, BACKGROUND_BYTES_PER_S)

    def _open(self, number: int, cancel: CancelToken | None) -> OpenShard:
        ahead, cancel = cancel is not None, cancel or self._pass_cancel
        facts = self.cache.manifest.shards[number]
        index = self.cache.index(facts)
        files = self._open_files(number, mapped=True)
        is_due = self._checks.is_due(number, files)
        for part in self._layouts:
            if ahead or is_due:
                files[part].populate(cancel)
        if is_due:
            self._checks.hash(number, files, cancel)
        self.cache.check_shard(facts, index, self.columns)
        sums = read_sums(self.cache, facts, self._sums_of) if self._sums_of else {}
        return OpenShard(facts.name, index, files, self._jpeg_index(facts), sums)

    def _open_files(self, number: int, *, mapped: bool) -> dict[str, OpenFile]:
        facts = self.cache.manifest.shards[number]
        files: dict[str, OpenFile] = {}
        for part in self._parts:
            lease = self.cache.hold(part, facts)
            path = self.cache.check_size(part, facts)
            mode: ReadMode = self.access if mapped and part not in self._by_piece else "read"
            files[part] = OpenFile.open(path, self.cache.file(part, facts).size_bytes, mode, lease)
        return files

    def _jpeg_index(self, facts: BaseShard) -> PixelIndex | None:
        if self._jpegs is None:
            return None
        group = self.cache.group(self._jpegs.group)
        return self.cache.group_index(group, facts).pixels[self._jpegs.facts.name]


def _empty_fields(layout: RecordLayout, count: int) -> dict[str, np.ndarray]:
    return {each.name: np.empty((count, *each.shape), each.dtype) for each in layout.fields}
