"""MosaicML Streaming: MDS shards read by a StreamingDataset, batched in the workers of a StreamingDataLoader."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import streaming
from streaming.base.util import clean_stale_shared_memory

from benchmarks.peers.base import Loader, Workload
from benchmarks.peers.records import Collate, pack
from benchmarks.peers.workers import PREFETCH_FACTOR, end_workers, loader_arguments

SHARD_BYTES = 1 << 26


class StreamingLoader(Loader):
    """A local StreamingDataset behind its own DataLoader."""

    name = "MosaicML Streaming"
    workloads = ("A", "B", "C")

    def versions(self) -> dict[str, str]:
        """See the base class."""
        return {"mosaicml-streaming": version("mosaicml-streaming")}

    def settings(self, workload: Workload) -> dict[str, Any]:
        """See the base class."""
        return {
            "shards": f"MDS of {SHARD_BYTES >> 20} MiB (its default), not compressed, no hashes, all local",
            "columns": "one of bytes: label and fields end to end (a column a field is not faster)",
            "shuffled": "shuffle_algo='py1e' (its default), block of all records",
            "batched": "by a collate function in the worker, drop_last",
            "num_canonical_nodes": 1,
            "num_workers": workload.num_threads,
            "persistent_workers": True,
            "prefetch_factor": PREFETCH_FACTOR,
        }

    def write(self, workload: Workload, folder: Path) -> None:
        """See the base class."""
        columns = {"record": "bytes"}
        with streaming.MDSWriter(out=str(folder), columns=columns, size_limit=SHARD_BYTES) as writer:
            for number in range(workload.num_records):
                writer.write({"record": pack(workload, number)})

    def open(self, workload: Workload, folder: Path, *, shuffle: bool) -> None:
        """See the base class."""
        clean_stale_shared_memory()
        self._dataset = streaming.StreamingDataset(
            local=str(folder), shuffle=shuffle, batch_size=workload.batch_size, num_canonical_nodes=1
        )
        self._loader = streaming.StreamingDataLoader(
            self._dataset,
            batch_size=workload.batch_size,
            drop_last=True,
            collate_fn=CollateColumn(workload),
            **loader_arguments(workload.num_threads),
        )

    def epoch(self, epoch: int) -> Iterator[Mapping[str, Any]]:
        """See the base class."""
        return iter(self._loader)

    def close(self) -> None:
        """See the base class."""
        end_workers(self._loader)
        del self._loader, self._dataset
        clean_stale_shared_memory()


@dataclass(frozen=True)
class CollateColumn:
    """Samples of one column made one batch; can be given to worker processes."""

    workload: Workload

    def __call__(self, samples: Sequence[Mapping[str, bytes]]) -> dict[str, Any]:
        """See `Collate`."""
        return Collate(self.workload)([sample["record"] for sample in samples])
