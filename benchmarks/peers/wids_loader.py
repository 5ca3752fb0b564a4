"""wids: random access to tar shards, batched in the workers of a torch DataLoader."""

import contextlib
import io
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import wids
from torch.utils.data import DataLoader

from benchmarks.peers.base import Loader, Workload
from benchmarks.peers.tars import NUM_SHARDS, shard_sizes, write_tars
from benchmarks.peers.webdataset_loader import CollateMembers, packed_member
from benchmarks.peers.workers import PREFETCH_FACTOR, end_workers, loader_arguments

SHUFFLE_RECORDS = 2000


class WidsLoader(Loader):
    """A ShardListDataset behind a torch DataLoader."""

    name = "wids"
    workloads = ("A", "B", "C")

    def versions(self) -> dict[str, str]:
        """See the base class."""
        return {"wids": version("wids")}

    def settings(self, workload: Workload) -> dict[str, Any]:
        """See the base class."""
        return {
            "shards": NUM_SHARDS,
            "cache": "cache_dir is the folder of the shards, so that nothing is copied; all shards stay mapped",
            "members": "one a record: label and fields end to end, read in place",
            "shuffled": f"ChunkedSampler(chunksize={SHUFFLE_RECORDS}, shuffle=True, shufflefirst=True)",
            "batched": "by a collate function in the worker, drop_last",
            "num_workers": workload.num_threads,
            "persistent_workers": True,
            "prefetch_factor": PREFETCH_FACTOR,
        }

    def write(self, workload: Workload, folder: Path) -> None:
        """See the base class."""
        write_tars(workload, folder, packed_member)

    def open(self, workload: Workload, folder: Path, *, shuffle: bool) -> None:
        """See the base class."""
        paths = sorted(str(path) for path in folder.glob("*.tar"))
        sizes = shard_sizes(workload)
        shards = [{"url": path, "nsamples": size} for path, size in zip(paths, sizes, strict=True)]
        # It prints a summary of the shards.
        with contextlib.redirect_stderr(io.StringIO()):
            dataset = wids.ShardListDataset(
                shards, cache_dir=str(folder), keep=True, lru_size=len(shards), transformations=_members
            )
        self._sampler = wids.ChunkedSampler(dataset, chunksize=SHUFFLE_RECORDS, shuffle=shuffle, shufflefirst=shuffle)
        self._loader = DataLoader(
            dataset,
            batch_size=workload.batch_size,
            sampler=self._sampler,
            drop_last=True,
            collate_fn=CollateMembers(workload),
            **loader_arguments(workload.num_threads),
        )

    def epoch(self, epoch: int) -> Iterator[Mapping[str, Any]]:
        """See the base class."""
        self._sampler.set_epoch(epoch)
        return iter(self._loader)

    def close(self) -> None:
        """See the base class."""
        end_workers(self._loader)


def _members(record: Mapping[str, Any]) -> dict[str, Any]:
    return {"bin": record[".bin"].getbuffer()}
