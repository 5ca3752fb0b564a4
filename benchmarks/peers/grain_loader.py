"""grain: ArrayRecord shards, batched and prefetched by grain's threads."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import grain
import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter

from benchmarks.peers.base import Loader, Workload
from benchmarks.peers.records import LABEL_BYTES, VIEW_BYTES, field_offsets, pack
from benchmarks.peers.tars import NUM_SHARDS, shard_sizes

WRITER_OPTIONS = "group_size:1,uncompressed"
READER_OPTIONS = {"index_storage_option": "in_memory"}
BATCHES_AHEAD = 4


class GrainLoader(Loader):
    """A MapDataset over an ArrayRecordDataSource."""

    name = "grain"
    workloads = ("A", "B", "C")

    def versions(self) -> dict[str, str]:
        """See the base class."""
        return {"grain": version("grain"), "array_record": version("array_record")}

    def settings(self, workload: Workload) -> dict[str, Any]:
        """See the base class."""
        return {
            "shards": NUM_SHARDS,
            "writer": WRITER_OPTIONS,
            "reader": READER_OPTIONS,
            "records": "label and fields end to end, copied into a new batch by batch_fn",
            "shuffled": "MapDataset.shuffle, a full permutation, seeded by the epoch",
            "batched": "MapDataset.batch(drop_remainder=True), so that threads make whole batches",
            "num_threads": workload.num_threads,
            "prefetch_buffer_size": BATCHES_AHEAD,
            "worker processes": "none: they start anew with every iterator",
        }

    def write(self, workload: Workload, folder: Path) -> None:
        """See the base class."""
        numbers = iter(range(workload.num_records))
        for shard, size in enumerate(shard_sizes(workload)):
            writer = ArrayRecordWriter(str(folder / f"shard-{shard:04d}.array_record"), WRITER_OPTIONS)
            for number in itertools.islice(numbers, size):
                writer.write(pack(workload, number))
            writer.close()

    def open(self, workload: Workload, folder: Path, *, shuffle: bool) -> None:
        """See the base class."""
        paths = sorted(str(path) for path in folder.glob("*.array_record"))
        self._source = grain.sources.ArrayRecordDataSource(paths, reader_options=READER_OPTIONS)
        self._workload, self._shuffle = workload, shuffle

    def epoch(self, epoch: int) -> Iterator[Mapping[str, Any]]:
        """See the base class."""
        records = grain.MapDataset.source(self._source)
        if self._shuffle:
            records = records.shuffle(seed=epoch)
        batches = records.batch(self._workload.batch_size, drop_remainder=True, batch_fn=_Batch(self._workload))
        options = grain.ReadOptions(num_threads=self._workload.num_threads, prefetch_buffer_size=BATCHES_AHEAD)
        iterator = iter(batches.to_iter_dataset(options))
        try:
            yield from iterator
        finally:
            iterator.close()

    def close(self) -> None:
        """See the base class."""
        del self._source


@dataclass(frozen=True)
class _Batch:
    workload: Workload

    def __call__(self, records: Sequence[bytes]) -> dict[str, np.ndarray]:
        workload, offsets = self.workload, field_offsets(self.workload)
        batch = {name: np.empty((len(records), *shape), dtype) for name, (dtype, shape) in workload.fields.items()}
        batch["label"] = np.empty(len(records), np.int64)
        places = [(memoryview(batch["label"]).cast("B"), 0, LABEL_BYTES)]
        for name in workload.fields:
            place = memoryview(batch[name].view(np.uint8)).cast("B")
            places.append((place, offsets[name], batch[name][0].nbytes))
        for row, record in enumerate(map(memoryview, records)):
            for place, offset, size_bytes in places:
                place[row * size_bytes : (row + 1) * size_bytes] = record[offset : offset + size_bytes]
        if workload.replay is not None:
            view, image = offsets["view"], offsets["view"] + VIEW_BYTES
            shown = (
                workload.replay(record[image:], np.frombuffer(record[view:image], np.int32).copy())
                for record in records
            )
            batch["pixels"] = np.stack(list(shown))
        return batch
