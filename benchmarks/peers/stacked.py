"""Mapped arrays of all records, one a field, copied into a reused buffer."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.base import Loader, Workload
from benchmarks.peers.buffers import Batch, BatchBuffer, order


class StackedLoader(Loader):
    """Slices in order, `np.take` where shuffled.

    Attributes:
        num_threads: Threads that each copy a part of every batch.
    """

    num_threads = 1

    @abstractmethod
    def arrays(self, workload: Workload, folder: Path) -> dict[str, np.ndarray]:
        """The mapped arrays, (records, *shape), by field, the labels among them."""

    def settings(self, workload: Workload) -> dict[str, Any]:
        """See the base class."""
        return {
            **self.storage(),
            "sequential": "a slice copied into a reused buffer",
            "shuffled": "np.take(out=reused buffer, mode='clip'); a full permutation every epoch",
            "threads": f"{self.num_threads}" + (", each copies a part of every batch" if self.num_threads > 1 else ""),
        }

    @abstractmethod
    def storage(self) -> Mapping[str, str]:
        """The settings that say how the arrays lie and are opened."""

    def open(self, workload: Workload, folder: Path, *, shuffle: bool) -> None:
        """See the base class."""
        self._arrays = self.arrays(workload, folder)
        self._workload, self._shuffle = workload, shuffle
        self._buffer = BatchBuffer(workload, self.num_threads)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """See the base class."""
        numbers = order(self._workload, shuffle=self._shuffle, epoch=epoch)
        return self._buffer.batches(self._take if self._shuffle else self._slice, numbers)

    def close(self) -> None:
        """See the base class."""
        self._buffer.close()
        self._arrays.clear()

    def _slice(self, batch: Batch, numbers: np.ndarray) -> None:
        for name, values in batch.items():
            np.copyto(values, self._arrays[name][numbers[0] : numbers[-1] + 1])

    def _take(self, batch: Batch, numbers: np.ndarray) -> None:
        for name, values in batch.items():
            np.take(self._arrays[name], numbers, axis=0, out=values, mode="clip")
