"""safetensors: one file of stacked tensors, mapped without a copy, rows copied into reused buffers."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
from safetensors.numpy import save_file

from benchmarks.peers.base import Loader, Workload
from benchmarks.peers.buffers import Batch, BatchBuffer, order


class SafetensorsLoader(Loader):
    """Rows of tensors that safe_open maps."""

    name = "safetensors"
    num_threads = 1

    def versions(self) -> dict[str, str]:
        """See the base class."""
        return {"safetensors": safetensors.__version__}

    def settings(self, workload: Workload) -> dict[str, Any]:
        """See the base class."""
        return {
            "file": "one file, a tensor of all records per field",
            "reading": "safe_open(framework='pt').get_tensor once: a view of the mapped file, no copy",
            "sequential": "a slice copied into a reused buffer",
            "shuffled": "np.take(out=reused buffer, mode='clip'); a full permutation every epoch",
            "threads": f"{self.num_threads}" + (", each copies a part of every batch" if self.num_threads > 1 else ""),
        }

    def write(self, workload: Workload, folder: Path) -> None:
        """See the base class."""
        stacked = {
            name: np.empty((workload.num_records, *shape), dtype) for name, (dtype, shape) in workload.fields.items()
        }
        stacked["label"] = np.empty(workload.num_records, np.int64)
        for number in range(workload.num_records):
            for name, value in workload.record(number).items():
                stacked[name][number] = value
            stacked["label"][number] = workload.label(number)
        save_file(stacked, folder / "records.safetensors")

    def open(self, workload: Workload, folder: Path, *, shuffle: bool) -> None:
        """See the base class."""
        with safetensors.safe_open(folder / "records.safetensors", framework="pt") as file:
            self._tensors = {name: file.get_tensor(name).numpy() for name in (*workload.fields, "label")}
        self._workload, self._shuffle = workload, shuffle
        self._buffer = BatchBuffer(workload, self.num_threads)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """See the base class."""
        numbers = order(self._workload, shuffle=self._shuffle, epoch=epoch)
        return self._buffer.batches(self._take if self._shuffle else self._slice, numbers)

    def close(self) -> None:
        """See the base class."""
        self._buffer.close()
        self._tensors.clear()

    def _slice(self, batch: Batch, numbers: np.ndarray) -> None:
        for name, values in batch.items():
            np.copyto(values, self._tensors[name][numbers[0] : numbers[-1] + 1])

    def _take(self, batch: Batch, numbers: np.ndarray) -> None:
        for name, values in batch.items():
            np.take(self._tensors[name], numbers, axis=0, out=values, mode="clip")


class ThreadedSafetensorsLoader(SafetensorsLoader):
    """The same with threads of one's own around it."""

    name = "safetensors, threaded by hand"
    num_threads = 2
