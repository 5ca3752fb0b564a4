"""litdata: optimized chunks read by a StreamingDataset, batched in the workers of a StreamingDataLoader."""

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import litdata

from benchmarks.peers.base import Loader, Workload
from benchmarks.peers.records import Collate, pack
from benchmarks.peers.workers import PREFETCH_FACTOR, end_workers, loader_arguments


class LitdataLoader(Loader):
    """A local StreamingDataset behind its own DataLoader."""

    name = "litdata"
    workloads = ("A", "B", "C")

    def versions(self) -> dict[str, str]:
        """See the base class."""
        return {"litdata": litdata.__version__}

    def settings(self, workload: Workload) -> dict[str, Any]:
        """See the base class."""
        return {
            "chunks": "64MB, not compressed, one bytes leaf a record: label and fields end to end",
            "POSIX-fast": "on by default for a local folder: chunks are mapped where they lie",
            "shuffled": "its default FullShuffle",
            "batched": "by a collate function in the worker, drop_last",
            "num_workers": workload.num_threads,
            "persistent_workers": True,
            "prefetch_factor": PREFETCH_FACTOR,
        }

    def write(self, workload: Workload, folder: Path) -> None:
        """See the base class."""
        litdata.optimize(
            fn=partial(pack, workload),
            inputs=list(range(workload.num_records)),
            output_dir=str(folder),
            chunk_bytes="64MB",
            num_workers=1,
            start_method="fork",
            mode="overwrite",
            verbose=False,
        )

    def open(self, workload: Workload, folder: Path, *, shuffle: bool) -> None:
        """See the base class."""
        dataset = litdata.StreamingDataset(str(folder), shuffle=shuffle, drop_last=True)
        self._loader = litdata.StreamingDataLoader(
            dataset,
            batch_size=workload.batch_size,
            drop_last=True,
            collate_fn=Collate(workload),
            **loader_arguments(workload.num_threads),
        )

    def epoch(self, epoch: int) -> Iterator[Mapping[str, Any]]:
        """See the base class."""
        return iter(self._loader)

    def close(self) -> None:
        """See the base class."""
        end_workers(self._loader)
