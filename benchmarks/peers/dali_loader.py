"""NVIDIA DALI: its webdataset reader with index files, in a pipeline that needs no GPU."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import nvidia.dali as dali
import torch
from nvidia.dali import fn, types
from wds2idx import IndexCreator

from benchmarks.peers.base import Loader, Workload
from benchmarks.peers.tars import NUM_SHARDS, write_tars

BATCHES_AHEAD = 2
SHUFFLE_RECORDS = 1024
LARGE_RECORD_BYTES = 1 << 16
DTYPES = {"<f4": types.FLOAT, "<f2": types.FLOAT16, "|i1": types.INT8, "<i8": types.INT64}


class DaliLoader(Loader):
    """A pipeline on the CPU (device_id=None) whose outputs are handed out as tensors."""

    name = "NVIDIA DALI"

    def versions(self) -> dict[str, str]:
        """See the base class."""
        return {"nvidia-dali": dali.__version__}

    def settings(self, workload: Workload) -> dict[str, Any]:
        """See the base class."""
        return {
            "shards": f"{NUM_SHARDS} tars, a member per field holding its bytes alone, index files by wds2idx",
            "reader": "fn.readers.webdataset, mapped files, typed by dtypes, shaped by fn.reshape",
            "shuffled": f"random_shuffle, initial_fill={SHUFFLE_RECORDS}: a buffer shuffle",
            "last batch": "pad_last_batch, dropped, so that every epoch starts anew",
            "outputs": "as_tensor, by DLPack without a copy, in DALI's own batch buffers",
            "device_id": None,
            "num_threads": _num_threads(workload),
            "prefetch_queue_depth": f"{BATCHES_AHEAD}, by schedule_run, nothing ahead of an epoch",
        }

    def write(self, workload: Workload, folder: Path) -> None:
        """See the base class."""
        for path in write_tars(workload, folder, _members):
            with IndexCreator(str(path), str(path.with_suffix(".idx")), verbose=False) as creator:
                creator.create_index()

    def open(self, workload: Workload, folder: Path, *, shuffle: bool) -> None:
        """See the base class."""
        self._workload = workload
        fields = {**workload.fields, "label": ("<i8", ())}
        self._names = tuple(fields)
        pipeline = dali.Pipeline(
            batch_size=workload.batch_size,
            num_threads=_num_threads(workload),
            device_id=None,
            prefetch_queue_depth=BATCHES_AHEAD,
            seed=0,
        )
        with pipeline:
            columns = fn.readers.webdataset(
                paths=sorted(str(path) for path in folder.glob("*.tar")),
                index_paths=sorted(str(path) for path in folder.glob("*.idx")),
                ext=list(fields),
                dtypes=[DTYPES[dtype] for dtype, _ in fields.values()],
                missing_component_behavior="error",
                random_shuffle=shuffle,
                initial_fill=SHUFFLE_RECORDS,
                pad_last_batch=True,
            )
            shapes = [list(shape) for _, shape in fields.values()]
            pipeline.set_outputs(
                *(fn.reshape(column, shape=shape) for column, shape in zip(columns, shapes, strict=True))
            )
        pipeline.build()
        self._pipeline = pipeline

    def epoch(self, epoch: int) -> Iterator[Mapping[str, Any]]:
        """See the base class."""
        runs = math.ceil(self._workload.num_records / self._workload.batch_size)
        for _ in range(min(BATCHES_AHEAD, runs)):
            self._pipeline.schedule_run()
        for run in range(runs):
            outputs = self._pipeline.share_outputs()
            if run < self._workload.batches:
                tensors = [torch.from_dlpack(output.as_tensor()) for output in outputs]
                yield dict(zip(self._names, tensors, strict=True))
            self._pipeline.release_outputs()
            if run + BATCHES_AHEAD < runs:
                self._pipeline.schedule_run()

    def close(self) -> None:
        """See the base class."""
        self._pipeline = None


def _num_threads(workload: Workload) -> int:
    # Handing small records to a second thread costs more than it brings.
    return workload.num_threads if workload.record_bytes >= LARGE_RECORD_BYTES else 1


def _members(workload: Workload, number: int) -> dict[str, bytes]:
    members = {name: value.tobytes() for name, value in workload.record(number).items()}
    return members | {"label": workload.label(number).to_bytes(8, "little")}
