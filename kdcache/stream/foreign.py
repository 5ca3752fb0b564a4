"""A stream over WebDataset tars of features that others wrote."""

import os

import numpy as np
import torch

from kdcache.errors import SourceError
from kdcache.stream.batch import BatchBuffers
from kdcache.stream.budget import plan_memory
from kdcache.stream.files import KeepOn, OpenFile
from kdcache.stream.gather import FileTable, RecordPlaces, files_of, gather
from kdcache.stream.loader import Loader, Records, StreamConfig
from kdcache.stream.readahead import Shards
from kdcache.stream.reader import MAX_OPEN_SHARDS
from kdcache.stream.shelf import Shelf, weakly
from kdcache.stream.tars import ForeignTars


class ForeignLoader(Loader):
    """The batches of tars that others wrote; see Loader for how they come. No pixels, no hashes.

    Args:
        tars: From `open_tars`.
        config: How to stream; `images` must be none.
        rank, world_size, device: As in Loader.
    """

    def __init__(
        self,
        tars: ForeignTars,
        config: StreamConfig,
        *,
        rank: int = 0,
        world_size: int = 1,
        device: torch.device | str = "cpu",
    ) -> None:
        records = _ForeignRecords(tars, config, world_size)
        super().__init__(records, config, rank=rank, world_size=world_size, device=device)


class _ForeignRecords(Records):
    """Fills batches from foreign tars; opens them for itself."""

    def __init__(self, tars: ForeignTars, config: StreamConfig, num_ranks: int) -> None:
        if config.images != "none":
            raise ValueError(f"foreign tars are streamed without images: images must be none, got {config.images!r}")
        self.digest = tars.digest
        self.order = config.order(tars.shard_sizes, 1)
        self.unchecked: list[int] = []
        self._tars = tars
        row_bytes = sum(array.field().size_bytes for array in tars.arrays)
        self.memory = plan_memory(
            budget=config.memory_budget,
            buffer_bytes=config.num_buffers * (config.batch_size // num_ranks) * row_bytes,
            shard_bytes=tars.file_bytes,
            window=config.shards_at_once,
            access=config.access,
        )
        self._shelf = Shelf(
            weakly(self._open),
            max_mapped_bytes=self.memory.max_mapped_bytes,
            max_open=max(MAX_OPEN_SHARDS, 2 * config.window),
        )
        self._starts = np.cumsum([0, *tars.shard_sizes])
        self._places = {
            array.name: RecordPlaces(
                self._starts, [array.field()], offsets=np.ascontiguousarray(tars.offsets[:, column])
            )
            for column, array in enumerate(tars.arrays)
        }

    @property
    def shards(self) -> Shards:
        """It opens its tars itself."""
        return self

    def new_buffers(self, batch_size: int, *, pinned: bool) -> BatchBuffers:
        """Memory for one batch."""
        return BatchBuffers(batch_size, [array.facts() for array in self._tars.arrays], None, pinned=pinned)

    def pieces(self, num_rows: int) -> list[slice]:
        """A whole batch at a time."""
        return [slice(0, num_rows)]

    def fill(self, buffers: BatchBuffers, rows: np.ndarray, part: slice) -> None:
        """Every array by its offsets."""
        own = rows[part]
        numbers = sorted(set(files_of(self._starts, own).tolist()))
        files = {number: self._shelf.get(number) for number in numbers}
        table = FileTable(files, len(self._starts) - 1)
        for name, places in self._places.items():
            gather(places, table, own, [field[part] for field in buffers.fields[name]])
        buffers.labels[part] = self._tars.labels[own[:, 0]]

    def shard(self, number: int, keep_on: KeepOn | None = None) -> OpenFile:
        """Open one tar."""
        return self._shelf.get(number, keep_on)

    def begin(self, keep_on: KeepOn) -> None:
        """Opening a tar takes no time worth breaking off."""

    def has(self, number: int) -> bool:
        """Whether a tar is open; asking counts as using it."""
        return self._shelf.has(number)

    def check_unchecked(self, keep_on: KeepOn, go_on: KeepOn) -> None:
        """There is nothing to check them against."""

    def _open(self, number: int, keep_on: KeepOn | None) -> OpenFile:
        path, size = self._tars.paths[number], self._tars.file_bytes[number]
        file = OpenFile.open(path, size, self.memory.access)
        if os.fstat(file.descriptor).st_size != size:
            raise SourceError(f"{path}: had {size} bytes when its samples were counted; open the tars again")
        if keep_on is not None:
            file.populate(keep_on)
        return file
