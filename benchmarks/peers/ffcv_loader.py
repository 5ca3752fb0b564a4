"""ffcv: one beton file left to the system's cache, gathered by its compiled loader."""

import contextlib
import gc
import io
import multiprocessing
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ffcv.fields import NDArrayField
from ffcv.fields.decoders import NDArrayDecoder
from ffcv.loader import Loader as FfcvOwnLoader
from ffcv.loader import OrderOption
from ffcv.transforms import ToTensor
from ffcv.writer import DatasetWriter

from benchmarks.peers.base import Loader, Workload

BATCHES_AHEAD = 1


class FfcvLoader(Loader):
    """ffcv's own loader over byte arrays, each viewed as its field's type."""

    name = "ffcv"
    reads_first_in_epoch = False

    def versions(self) -> dict[str, str]:
        """See the base class."""
        return {"ffcv": version("ffcv"), "numba": version("numba")}

    def settings(self, workload: Workload) -> dict[str, Any]:
        """See the base class."""
        return {
            "fields": "NDArrayField of uint8, viewed as the field's type after loading",
            "os_cache": True,
            "order": "SEQUENTIAL, or RANDOM (a full permutation), as its guide advises for data that fit in memory",
            "num_workers": workload.num_threads,
            "batches_ahead": f"{BATCHES_AHEAD}: each costs a new buffer an epoch",
            "drop_last": True,
        }

    def write(self, workload: Workload, folder: Path) -> None:
        """See the base class."""
        sizes = {name: value.nbytes for name, value in _bytes(workload, 0).items()}
        fields = {name: NDArrayField(np.dtype(np.uint8), (size,)) for name, size in sizes.items()}
        before = multiprocessing.active_children()
        writer = DatasetWriter(str(folder / "records.beton"), fields, num_workers=1)
        # It draws a progress bar.
        with contextlib.redirect_stderr(io.StringIO()):
            writer.from_indexed_dataset(_Records(workload))
        # It does not wait for its worker.
        for process in multiprocessing.active_children():
            if process not in before:
                process.join()

    def open(self, workload: Workload, folder: Path, *, shuffle: bool) -> None:
        """See the base class."""
        self._workload, self._torch_threads = workload, torch.get_num_threads()
        names = (*workload.fields, "label")
        self._loader = FfcvOwnLoader(
            str(folder / "records.beton"),
            batch_size=workload.batch_size,
            num_workers=workload.num_threads,
            os_cache=True,
            order=OrderOption.RANDOM if shuffle else OrderOption.SEQUENTIAL,
            seed=0,
            pipelines={name: [NDArrayDecoder(), ToTensor()] for name in names},
            drop_last=True,
            batches_ahead=BATCHES_AHEAD,
        )
        # The first epoch compiles the pipelines.
        for _ in self._loader:
            pass

    def epoch(self, epoch: int) -> Iterator[Mapping[str, Any]]:
        """See the base class."""
        types = {name: (torch.from_numpy(np.empty(0, dtype)).dtype, shape) for name, (dtype, shape) in self._fields()}
        batches = iter(self._loader)
        try:
            for batch in batches:
                columns = zip(types.items(), batch, strict=True)
                yield {name: values.view(dtype).view(-1, *shape) for (name, (dtype, shape)), values in columns}
        finally:
            # Its thread ends only once all its batches are taken.
            for _ in iter(batches.output_queue.get, None) if batches.is_alive() else ():
                pass

    def close(self) -> None:
        """See the base class."""
        del self._loader
        # Compiled functions left to the collector print errors when a process forked later collects them.
        gc.collect()
        torch.set_num_threads(self._torch_threads)

    def _fields(self) -> list[tuple[str, tuple[str, tuple[int, ...]]]]:
        return [*self._workload.fields.items(), ("label", ("<i8", ()))]


class _Records:
    def __init__(self, workload: Workload) -> None:
        self._workload = workload

    def __len__(self) -> int:
        return self._workload.num_records

    def __getitem__(self, number: int) -> tuple[np.ndarray, ...]:
        return tuple(_bytes(self._workload, int(number)).values())


def _bytes(workload: Workload, number: int) -> dict[str, np.ndarray]:
    record = {name: value.reshape(-1).view(np.uint8) for name, value in workload.record(number).items()}
    return record | {"label": np.array([workload.label(number)], np.int64).view(np.uint8)}
