"""A record as one string of bytes, and many such strings as one batch of tensors."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import default_collate

from benchmarks.peers.base import Workload
from kdcache.views import VIEW_FIELDS

LABEL_BYTES = 8
VIEW_BYTES = 4 * len(VIEW_FIELDS)


def pack(workload: Workload, number: int) -> bytes:
    """Label (int64), fields in the workload's order and, for C, view (int32) and JPEG file, end to end."""
    parts = [np.int64(workload.label(number)).tobytes()]
    parts += [value.tobytes() for value in workload.record(number).values()]
    if workload.replay is not None:
        parts += [np.asarray(workload.view(number), np.int32).tobytes(), workload.image(number)]
    return b"".join(parts)


def field_offsets(workload: Workload) -> dict[str, int]:
    """Where each field starts in a packed record; ``view`` is where the view of a record of C does."""
    offsets, offset = {}, LABEL_BYTES
    for name, (dtype, shape) in workload.fields.items():
        offsets[name] = offset
        offset += int(np.prod(shape)) * np.dtype(dtype).itemsize
    return offsets | {"view": offset}


def stack(buffers: Sequence[Any], dtype: str, shape: tuple[int, ...], offset: int = 0) -> torch.Tensor:
    """(B, *shape) from bytes-like objects that hold a record each at `offset`; in a worker it lies in shared memory.

    torch warns where it is lent memory that it must not write: `quiet_worker` silences that.
    """
    size_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
    rows = [torch.frombuffer(buffer, dtype=torch.uint8, count=size_bytes, offset=offset) for buffer in buffers]
    stacked: torch.Tensor = default_collate(rows)
    return stacked.view(torch.from_numpy(np.empty(0, dtype)).dtype).view(len(rows), *shape)


def pixels(replay: Callable[[bytes, np.ndarray], np.ndarray], images: Sequence[Any], views: Sequence[Any]) -> Any:
    """(B, S, S, 3) uint8 from JPEG files and views, which may both be any bytes-like object."""
    shown = (
        replay(bytes(image), np.frombuffer(view, np.int32).copy()) for image, view in zip(images, views, strict=True)
    )
    return default_collate([torch.from_numpy(np.ascontiguousarray(image)) for image in shown])


@dataclass(frozen=True)
class Collate:
    """A list of packed records to a batch; can be given to worker processes."""

    workload: Workload

    def __call__(self, records: Sequence[Any]) -> dict[str, torch.Tensor]:
        """Fields, label and, for C, pixels of bytes-like records made by `pack`."""
        offsets = field_offsets(self.workload)
        batch = {
            name: stack(records, dtype, shape, offsets[name]) for name, (dtype, shape) in self.workload.fields.items()
        }
        batch["label"] = stack(records, "<i8", ())
        if self.workload.replay is not None:
            views = [memoryview(record)[offsets["view"] : offsets["view"] + VIEW_BYTES] for record in records]
            images = [memoryview(record)[offsets["view"] + VIEW_BYTES :] for record in records]
            batch["pixels"] = pixels(self.workload.replay, images, views)
        return batch
