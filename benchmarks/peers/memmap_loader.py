"""np.memmap: one file of stacked records a field, copied into reused buffers."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.base import Loader, Workload
from benchmarks.peers.buffers import Batch, BatchBuffer, order


class MemmapLoader(Loader):
    """Rows taken from mapped npy files."""

    name = "np.memmap"
    num_threads = 1

    def versions(self) -> dict[str, str]:
        """See the base class."""
        return {"numpy": np.__version__}

    def settings(self, workload: Workload) -> dict[str, Any]:
        """See the base class."""
        return {
            "file": "one npy file a field, opened by np.load(mmap_mode='r') and mapped once",
            "sequential": "a slice copied into a reused buffer",
            "shuffled": "np.take(out=reused buffer, mode='clip'); a full permutation every epoch",
            "threads": f"{self.num_threads}" + (", each copies a part of every batch" if self.num_threads > 1 else ""),
        }

    def write(self, workload: Workload, folder: Path) -> None:
        """See the base class."""
        mapped = {
            name: np.lib.format.open_memmap(folder / f"{name}.npy", "w+", dtype, (workload.num_records, *shape))
            for name, (dtype, shape) in workload.fields.items()
        }
        for number in range(workload.num_records):
            for name, value in workload.record(number).items():
                mapped[name][number] = value
        labels = [workload.label(number) for number in range(workload.num_records)]
        np.save(folder / "label.npy", np.array(labels, np.int64))

    def open(self, workload: Workload, folder: Path, *, shuffle: bool) -> None:
        """See the base class."""
        names = (*workload.fields, "label")
        self._mapped = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in names}
        self._workload, self._shuffle = workload, shuffle
        self._buffer = BatchBuffer(workload, self.num_threads)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """See the base class."""
        numbers = order(self._workload, shuffle=self._shuffle, epoch=epoch)
        return self._buffer.batches(self._take if self._shuffle else self._slice, numbers)

    def close(self) -> None:
        """See the base class."""
        self._buffer.close()
        self._mapped.clear()

    def _slice(self, batch: Batch, numbers: np.ndarray) -> None:
        for name, values in batch.items():
            np.copyto(values, self._mapped[name][numbers[0] : numbers[-1] + 1])

    def _take(self, batch: Batch, numbers: np.ndarray) -> None:
        for name, values in batch.items():
            np.take(self._mapped[name], numbers, axis=0, out=values, mode="clip")


class ThreadedMemmapLoader(MemmapLoader):
    """The same with threads of one's own around it: as far as numpy can be taken by hand."""

    name = "np.memmap, threaded by hand"
    num_threads = 2
