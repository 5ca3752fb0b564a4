"""LMDB: a value per record, copied into a reused buffer; for C behind a torch DataLoader."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
from torch.utils.data import DataLoader, Dataset

from benchmarks.peers.base import Loader, Workload
from benchmarks.peers.buffers import Batch, BatchBuffer, order
from benchmarks.peers.records import LABEL_BYTES, Collate, field_offsets, pack
from benchmarks.peers.workers import end_workers, loader_arguments

RECORDS_PER_COMMIT = 256


class LmdbLoader(Loader):
    """Values of one LMDB environment, read as buffers of its mapping."""

    name = "LMDB"
    workloads = ("A", "B", "C")

    def versions(self) -> dict[str, str]:
        """See the base class."""
        return {"lmdb (Python)": lmdb.__version__, "lmdb": ".".join(map(str, lmdb.version()))}

    def settings(self, workload: Workload) -> dict[str, Any]:
        """See the base class."""
        settings = {
            "environment": "readonly, lock=False, readahead off where shuffled; one value a record, appended in order",
            "shuffled": "a full permutation every epoch",
        }
        if workload.replay is not None:
            return settings | {
                "reading": "torch DataLoader of a map-style dataset (__getitems__), batched in its persistent workers",
                "num_workers": workload.num_threads,
            }
        return settings | {
            "reading": "get(buffers=True) in one read transaction a batch, copied into a reused buffer",
            "threads": "1: copies of memoryviews in one thread were faster here than numpy copies in two",
        }

    def write(self, workload: Workload, folder: Path) -> None:
        """See the base class."""
        numbers = range(workload.num_records)
        size_bytes = sum(len(pack(workload, number)) + (1 << 13) for number in numbers) + (1 << 26)
        with lmdb.open(str(folder), map_size=size_bytes, sync=False) as environment:
            for first in numbers[::RECORDS_PER_COMMIT]:
                with environment.begin(write=True) as transaction:
                    for number in numbers[first : first + RECORDS_PER_COMMIT]:
                        transaction.put(_key(number), pack(workload, number), append=True)

    def open(self, workload: Workload, folder: Path, *, shuffle: bool) -> None:
        """See the base class."""
        self._workload, self._shuffle = workload, shuffle
        self._values = _Values(folder, workload.num_records, readahead=not shuffle)
        self._loader: DataLoader[Any] | None = None
        self._buffer: BatchBuffer | None = None
        if workload.replay is not None:
            self._loader = DataLoader(
                self._values,
                batch_size=workload.batch_size,
                shuffle=shuffle,
                drop_last=True,
                collate_fn=Collate(workload),
                **loader_arguments(workload.num_threads),
            )
        else:
            self._buffer = BatchBuffer(workload, 1)
            _ = self._values.environment

    def epoch(self, epoch: int) -> Iterator[Mapping[str, Any]]:
        """See the base class."""
        if self._buffer is None:
            return iter(self._loader)
        return self._buffer.batches(self._copy, order(self._workload, shuffle=self._shuffle, epoch=epoch))

    def close(self) -> None:
        """See the base class."""
        if self._loader is not None:
            end_workers(self._loader)
        if self._buffer is not None:
            self._buffer.close()
        self._values.close()

    def _copy(self, batch: Batch, numbers: np.ndarray) -> None:
        offsets = field_offsets(self._workload)
        places = [(memoryview(batch["label"]).cast("B"), 0, LABEL_BYTES)]
        for name in self._workload.fields:
            size_bytes = batch[name][0].nbytes
            places.append((memoryview(batch[name].view(np.uint8)).cast("B"), offsets[name], size_bytes))
        with self._values.environment.begin(buffers=True) as transaction:
            for row, number in enumerate(numbers.tolist()):
                value = transaction.get(_key(number))
                for place, offset, size_bytes in places:
                    place[row * size_bytes : (row + 1) * size_bytes] = value[offset : offset + size_bytes]


class _Values(Dataset[bytes]):
    """The values of an environment, which every process opens for itself."""

    def __init__(self, folder: Path, num_records: int, *, readahead: bool) -> None:
        self._folder, self._num_records, self._readahead = str(folder), num_records, readahead
        self._environment: lmdb.Environment | None = None

    def __len__(self) -> int:
        return self._num_records

    def __getitems__(self, numbers: list[int]) -> list[bytes]:
        with self.environment.begin() as transaction:
            return [transaction.get(_key(number)) for number in numbers]

    @property
    def environment(self) -> lmdb.Environment:
        """Opened on first use, which must not be before the worker processes start."""
        if self._environment is None:
            self._environment = lmdb.open(self._folder, readonly=True, lock=False, readahead=self._readahead)
        return self._environment

    def close(self) -> None:
        """Close what this process opened."""
        if self._environment is not None:
            self._environment.close()


def _key(number: int) -> bytes:
    return number.to_bytes(8, "big")
