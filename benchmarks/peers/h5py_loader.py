"""h5py: one contiguous dataset a field, read directly into a reused buffer."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from benchmarks.peers.base import Loader, Workload
from benchmarks.peers.buffers import Batch, BatchBuffer, order


class H5pyLoader(Loader):
    """Rows of contiguous HDF5 datasets."""

    name = "h5py"

    def versions(self) -> dict[str, str]:
        """See the base class."""
        return {"h5py": h5py.__version__, "hdf5": h5py.version.hdf5_version}

    def settings(self, workload: Workload) -> dict[str, Any]:
        """See the base class."""
        return {
            "layout": "contiguous, libver='latest', not compressed",
            "sequential": "read_direct of a slice into a reused buffer",
            "shuffled": "per record: low-level DatasetID.read of one hyperslab into its row of a reused buffer; "
            "a full permutation every epoch",
            "threads": "1: HDF5 runs under one lock",
        }

    def write(self, workload: Workload, folder: Path) -> None:
        """See the base class."""
        with h5py.File(folder / "records.h5", "w", libver="latest") as file:
            datasets = {
                name: file.create_dataset(name, (workload.num_records, *shape), dtype)
                for name, (dtype, shape) in workload.fields.items()
            }
            for number in range(workload.num_records):
                for name, value in workload.record(number).items():
                    datasets[name][number] = value
            labels = [workload.label(number) for number in range(workload.num_records)]
            file.create_dataset("label", data=np.array(labels, np.int64))

    def open(self, workload: Workload, folder: Path, *, shuffle: bool) -> None:
        """See the base class."""
        self._file = h5py.File(folder / "records.h5", "r")
        self._datasets = {name: self._file[name] for name in (*workload.fields, "label")}
        self._labels = self._file["label"][:]
        self._workload, self._shuffle = workload, shuffle
        self._buffer = BatchBuffer(workload, 1)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """See the base class."""
        numbers = order(self._workload, shuffle=self._shuffle, epoch=epoch)
        return self._buffer.batches(self._read_each if self._shuffle else self._read_slice, numbers)

    def close(self) -> None:
        """See the base class."""
        self._buffer.close()
        self._file.close()

    def _read_slice(self, batch: Batch, numbers: np.ndarray) -> None:
        for name, values in batch.items():
            self._datasets[name].read_direct(values, np.s_[int(numbers[0]) : int(numbers[-1]) + 1])

    def _read_each(self, batch: Batch, numbers: np.ndarray) -> None:
        np.take(self._labels, numbers, out=batch["label"], mode="clip")
        for name in self._workload.fields:
            values, dataset = batch[name], self._datasets[name].id
            shape = values.shape[1:]
            record, space, kind = h5py.h5s.create_simple(shape), dataset.get_space(), h5py.h5t.py_create(values.dtype)
            rest, one = (0,) * len(shape), (1, *shape)
            for row, number in zip(values, numbers.tolist(), strict=True):
                space.select_hyperslab((number, *rest), one)
                dataset.read(record, space, row, kind)
