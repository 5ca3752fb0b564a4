"""webdataset: tar shards, decoded and batched in the workers of a WebLoader."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import webdataset

from benchmarks.peers.base import Loader, Workload
from benchmarks.peers.records import Collate, pack
from benchmarks.peers.tars import NUM_SHARDS, write_tars
from benchmarks.peers.workers import PREFETCH_FACTOR, end_workers, loader_arguments

SHUFFLE_RECORDS = 1000


class WebdatasetLoader(Loader):
    """A WebDataset pipeline behind a WebLoader."""

    name = "webdataset"
    workloads = ("A", "B", "C")

    def versions(self) -> dict[str, str]:
        """See the base class."""
        return {"webdataset": webdataset.__version__}

    def settings(self, workload: Workload) -> dict[str, Any]:
        """See the base class."""
        return {
            "shards": NUM_SHARDS,
            "members": "one a record: label and fields end to end, read in place (a member a field is slower)",
            "shuffled": f"shardshuffle, detshuffle, then shuffle({SHUFFLE_RECORDS}): a buffer shuffle in each worker",
            "batched": "in the worker, partial=False: every worker drops the records that fill no batch",
            "num_workers": workload.num_threads,
            "persistent_workers": True,
            "prefetch_factor": PREFETCH_FACTOR,
        }

    def write(self, workload: Workload, folder: Path) -> None:
        """See the base class."""
        write_tars(workload, folder, packed_member)

    def open(self, workload: Workload, folder: Path, *, shuffle: bool) -> None:
        """See the base class."""
        shards = sorted(str(path) for path in folder.glob("*.tar"))
        dataset = webdataset.WebDataset(shards, shardshuffle=len(shards) if shuffle else False, detshuffle=True, seed=0)
        if shuffle:
            dataset = dataset.shuffle(SHUFFLE_RECORDS, initial=SHUFFLE_RECORDS)
        dataset = dataset.batched(workload.batch_size, collation_fn=CollateMembers(workload), partial=False)
        self._loader = webdataset.WebLoader(dataset, batch_size=None, **loader_arguments(workload.num_threads))

    def epoch(self, epoch: int) -> Iterator[Mapping[str, Any]]:
        """See the base class."""
        return iter(self._loader)

    def close(self) -> None:
        """See the base class."""
        end_workers(self._loader.pipeline[0])


def packed_member(workload: Workload, number: int) -> dict[str, bytes]:
    """The one member of a record."""
    return {"bin": pack(workload, number)}


@dataclass(frozen=True)
class CollateMembers:
    """Records as mappings of member name to bytes, made one batch; can be given to worker processes."""

    workload: Workload

    def __call__(self, records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """See `Collate`."""
        return Collate(self.workload)([record["bin"] for record in records])
