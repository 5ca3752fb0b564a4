"""What a loader streams: rows of batches filled from a cache."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import final

import numpy as np

from kdcache.cache.cache import Cache
from kdcache.cache.column import Column
from kdcache.errors import Remedy, UsageError
from kdcache.images import Source
from kdcache.per_class import few_shot
from kdcache.reading.reader import MAX_OPEN_SHARDS, ShardReader
from kdcache.stream.batch import BatchBuffers
from kdcache.stream.config import StreamConfig, plan_memory
from kdcache.stream.images import ViewReplayer
from kdcache.stream.order import sample_starts
from kdcache.stream.pixels import PixelFiller, StoredJpegs, gathered, stored_pixels

# What is worth handing to a thread: bytes to copy; pixels of views, so few that no thread waits long for another at
# the end. Small images come in dozens: with 4 of 32 px in a piece two threads were slower than one.
_PIECE_BYTES = 4 << 20
_PIECE_PIXELS = 4 * 224**2
_MOST_PIECE_IMAGES = 128


@final
class CacheRecords:
    """Fills rows of batches from a cache; used by several threads at once.

    Args:
        cache, columns, config, source: As in CacheLoader.
        num_ranks: Processes among which a batch is divided.

    Raises: UsageError where images are drawn by class and a class has too few of them.

    Attributes:
        digest: Identity of the cache, hex.
        order: In which order its views come.
        memory: What fits where.
        pixels: The column that pixels are taken from; None where they are replayed or left out.
        reader: Opens its shards.
    """

    def __init__(
        self, cache: Cache, columns: Sequence[Column], config: StreamConfig, source: Source | None, num_ranks: int
    ) -> None:
        shards, facts = cache.manifest.shards, cache.manifest.fingerprint.views
        self.digest = cache.identity(columns)
        sizes = [shard.num_samples for shard in shards]
        self.order = config.order(sizes, facts.num_views, chosen_samples(cache, config))
        self.columns = list(columns)
        self._config = config
        self._facts = facts
        self.pixels = stored_pixels(cache, config.pixels) if config.images == "pixels" else None
        with_images = config.images == "encoded" or (config.images == "pixels" and self.pixels is None)
        by_address = gathered(columns, self.pixels)
        row_bytes = sum(column.layout().payload_bytes for column in columns)
        pixel_bytes = 3 * facts.size**2 if config.images == "pixels" else 0
        rows = config.batch_size // num_ranks
        self._gathers_pixels = len(by_address) > len(columns)
        self._batch_bytes = rows * (row_bytes + (pixel_bytes if self._gathers_pixels else 0))
        self.memory = plan_memory(
            config,
            buffer_bytes=config.num_buffers * rows * (row_bytes + pixel_bytes),
            shard_bytes=[sum(cache.file(column.name, shard).size_bytes for column in by_address) for shard in shards],
        )
        self.reader = ShardReader(
            cache,
            by_address,
            jpegs=None if self.pixels is None or self._gathers_pixels else self.pixels,
            check=config.check,
            access=self.memory.access,
            with_images=with_images,
            max_mapped_bytes=self.memory.max_mapped_bytes,
            max_open=max(MAX_OPEN_SHARDS, 2 * config.window),
        )
        # Whoever opens more shards ahead than stay open closes those in use.
        ahead = max(1, self.reader.stream_windows(config.shards_at_once) - config.shards_at_once)
        self.memory = replace(self.memory, shards_ahead=min(self.memory.shards_ahead, ahead))
        self._replayer = (
            ViewReplayer(cache, self.reader, source, check_share=config.check_pixels) if with_images else None
        )
        self._filler: PixelFiller | None = self._replayer if config.images == "pixels" else None
        if self.pixels is not None and not self._gathers_pixels:
            self._filler = StoredJpegs(self.reader, self.pixels)

    def new_buffers(self, batch_size: int, *, pinned: bool) -> BatchBuffers:
        """Memory for one batch of this rank."""
        return BatchBuffers(
            batch_size, self.columns, self._facts, pinned=pinned, with_pixels=self._config.images == "pixels"
        )

    def _num_pieces(self, num_samples: int) -> int:
        threads, in_flight = self._config.threads, self._config.num_buffers - 1
        if self._filler is not None:
            views_at_once = max(1, min(_MOST_PIECE_IMAGES, _PIECE_PIXELS // self._facts.size**2))
            return max(2 * threads, num_samples // views_at_once)
        if self._config.images == "encoded":
            return 1
        return max(1, min(-(-threads // in_flight), self._batch_bytes // _PIECE_BYTES))

    def pieces(self, num_rows: int) -> list[slice]:
        """How a batch is divided among threads: views of a sample stay together, and a piece is worth its thread."""
        num_views = self.order.views_per_sample
        num_samples = -(-num_rows // num_views)
        count = min(self._num_pieces(num_samples), num_samples)
        ends = [min(num_samples * number // count * num_views, num_rows) for number in range(count + 1)]
        return [slice(first, last) for first, last in pairwise(ends)]

    def fill(self, buffers: BatchBuffers, rows: np.ndarray, part: slice) -> None:
        """Fill some rows of a batch: targets first, all in one go; then labels, then images.

        Args:
            buffers: Of the batch.
            rows: (B, 2) int64, sample and view numbers of the whole batch.
            part: Which of the rows.
        """
        own = rows[part]
        into = {name: [field[part] for field in fields] for name, fields in buffers.fields.items()}
        if self.pixels is not None and self._gathers_pixels:
            into[self.pixels.name] = [buffers.pixels[part].reshape(len(own), -1)]
        shards = self.reader.gather(own, into)
        labels = buffers.labels[part] = self.reader.labels_of(own, shards)
        if self._config.require_labels and labels.min() < 0:
            self._refuse_unlabelled(int(own[labels.argmin(), 0]))
        if self._filler is None and self._replayer is None:
            return
        while True:
            if self._filler is not None:
                self._filler.fill(own, buffers.pixels[part])
            elif self._replayer is not None:
                self._fill_encoded(buffers, own, self._replayer)
            if self.reader.confirm(self.reader.shards_of(own), own):
                return

    def _refuse_unlabelled(self, sample: int) -> None:
        shard, row = self.reader.locate(sample)
        raise UsageError(
            f"{shard.name}, key {shard.index.key(row)!r}: no label, and labels are needed",
            remedy=Remedy.TRAIN_WITHOUT_LABELS,
        )

    def _fill_encoded(self, buffers: BatchBuffers, rows: np.ndarray, replayer: ViewReplayer) -> None:
        files: list[bytes] = []
        views = np.empty((len(rows), len(self._facts.fields)), np.int32)
        starts = sample_starts(rows)
        for first, end in zip(starts.tolist(), [*starts[1:].tolist(), len(rows)], strict=True):
            shard, row = self.reader.locate(int(rows[first, 0]))
            files.append(replayer.read(shard, row))
            views[first:end] = shard.index.views[row, rows[first:end, 1]]
        buffers.set_encoded(files, np.diff(starts, append=len(rows)), views)


def chosen_samples(cache: Cache, config: StreamConfig) -> np.ndarray | None:
    """Numbers of the samples that the stream draws by class, ascending, int64; None for all.

    Every shard's index is read. Keys are the source's, so a seed draws the images here that it draws from the source.

    Raises: UsageError where a class has too few of them.
    """
    if config.per_class is None:
        return None
    labels: list[int] = []
    keys: list[str] = []
    for shard in cache.manifest.shards:
        index = cache.index(shard)
        labels += index.labels.tolist()
        keys += [index.source_key(row) for row in range(len(index))]
    names = cache.manifest.fingerprint.source.class_names
    kept = few_shot(labels, keys, per_class=config.per_class, seed=config.subset_seed, class_names=names)
    return np.array(kept, np.int64)
