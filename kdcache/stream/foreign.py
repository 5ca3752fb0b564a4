"""A stream over WebDataset tars of features that others wrote."""

import os

import numpy as np
import torch

from kdcache.errors import SourceError
from kdcache.stream.batch import BatchBuffers
from kdcache.stream.budget import plan_memory
from kdcache.stream.gather import KeepOn, OpenFile, gather
from kdcache.stream.loader import Loader, Records, StreamConfig
from kdcache.stream.reader import MAX_OPEN_SHARDS
from kdcache.stream.shelf import Shelf
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
        self.shards = self
        self.unchecked: list[int] = []
        self._tars = tars
        row_bytes = sum(array.field().size_bytes for array in tars.arrays)
        self.memory = plan_memory(
            budget=config.memory_budget,
            buffer_bytes=config.num_buffers * (config.batch_size // num_ranks) * row_bytes,
            shard_bytes=tars.file_bytes,
            window=config.window if config.shuffle else 1,
            access=config.access,
        )
        self._shelf = Shelf(
            self._open,
            max_mapped_bytes=self.memory.max_mapped_bytes if self.memory.access == "map" else None,
            max_open=max(MAX_OPEN_SHARDS, 2 * config.window),
        )
        self._starts = np.cumsum([0, *tars.shard_sizes])

    def new_buffers(self, batch_size: int, *, pinned: bool) -> BatchBuffers:
        """Memory for one batch."""
        return BatchBuffers(batch_size, [array.facts() for array in self._tars.arrays], None, pinned=pinned)

    def pieces(self, num_rows: int) -> list[slice]:
        """A whole batch at a time."""
        return [slice(0, num_rows)]

    def fill(self, buffers: BatchBuffers, rows: np.ndarray, part: slice) -> None:
        """Every array by its offsets."""
        samples = rows[part, 0]
        numbers = np.searchsorted(self._starts, samples, side="right") - 1
        files = self._shelf.get_all(sorted(set(numbers.tolist())))
        for column, array in enumerate(self._tars.arrays):
            into = [field[part] for field in buffers.fields[array.name]]
            gather(files, numbers, self._tars.offsets[samples, column], [array.field()], into)
        buffers.labels[part] = self._tars.labels[samples]

    def shard(self, number: int, keep_on: KeepOn | None = None) -> OpenFile:
        """Open one tar."""
        return self._shelf.get(number, keep_on)

    def check_unchecked(self, keep_on: KeepOn, go_on: KeepOn) -> None:
        """There is nothing to check them against."""

    def _open(self, number: int, keep_on: KeepOn | None) -> OpenFile:
        path, size = self._tars.paths[number], self._tars.file_bytes[number]
        file = OpenFile.open(path, size, mapped=self.memory.access == "map")
        if os.fstat(file.descriptor).st_size != size:
            raise SourceError(f"{path}: had {size} bytes when its samples were counted; open the tars again")
        if keep_on is not None:
            file.populate(keep_on)
        return file
