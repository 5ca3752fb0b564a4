"""A batch, and the reused buffers it lives in."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from kdcache.cache.manifest import ColumnFacts, ViewFacts
from kdcache.pixels import normalize_pixels
from kdcache.stream.targets import TORCH_DTYPES, PackedTargets


@dataclass(frozen=True)
class Batch:
    """Images, labels and targets, joined by key.

    A batch that comes straight from a loader lies in buffers that the next batch will overwrite: use it before asking
    for the next, or `clone` it.

    Args:
        pixels: (B, S, S, 3) uint8, the views the teacher saw.
        labels: (B,) int64, -1 where unlabelled.
        targets: By column name.
        samples: (B,) int64, sample numbers through all shards of the cache.
        views: (B,) int64, view numbers.
        facts: How the views were made; holds mean and std.
    """

    pixels: Tensor
    labels: Tensor
    targets: dict[str, PackedTargets]
    samples: Tensor
    views: Tensor
    facts: ViewFacts

    @property
    def images(self) -> Tensor:
        """Normalised model input, (B, 3, S, S) float32, with the mean and std of the teacher."""
        return normalize_pixels(self.pixels, mean=self.facts.mean, std=self.facts.std)

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on another device, targets still packed; itself if it is there already."""
        device = torch.device(device)
        if self.pixels.device == device:
            return self
        targets = {name: each.to(device) for name, each in self.targets.items()}
        moved = (each.to(device) for each in (self.pixels, self.labels))
        pixels, labels = moved
        return Batch(pixels, labels, targets, self.samples.to(device), self.views.to(device), self.facts)

    def clone(self) -> "Batch":
        """A copy in memory of its own."""
        targets = {
            name: PackedTargets(each.column, {field: values.clone() for field, values in each.fields.items()})
            for name, each in self.targets.items()
        }
        tensors = (self.pixels, self.labels, self.samples, self.views)
        pixels, labels, samples, views = (each.clone() for each in tensors)
        return Batch(pixels, labels, targets, samples, views, self.facts)


class BatchBuffers:
    """Memory for one batch, allocated once and filled again and again: fresh pages would cost more than the copy.

    Args:
        batch_size: B, views on this rank.
        columns: Columns to read.
        facts: How the views were made.
        pinned: Whether the memory is page-locked, for copies to an accelerator.
    """

    def __init__(self, batch_size: int, columns: Sequence[ColumnFacts], facts: ViewFacts, *, pinned: bool) -> None:
        def empty(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
            return torch.empty(shape, dtype=dtype, pin_memory=pinned)

        targets: dict[str, PackedTargets] = {}
        self.fields: dict[str, list[np.ndarray]] = {}
        for column in columns:
            tensors: dict[str, Tensor] = {}
            self.fields[column.name] = []
            for field in column.layout().fields:
                tensors[field.name] = empty((batch_size, *field.shape), TORCH_DTYPES[field.dtype.str])
                flat = tensors[field.name].view(batch_size, -1).numpy()
                self.fields[column.name].append(flat.view(np.uint8))
            targets[column.name] = PackedTargets(column, tensors)
        self.batch = Batch(
            pixels=empty((batch_size, facts.size, facts.size, 3), torch.uint8),
            labels=empty((batch_size,), torch.int64),
            targets=targets,
            samples=empty((batch_size,), torch.int64),
            views=empty((batch_size,), torch.int64),
            facts=facts,
        )
        self.pixels = self.batch.pixels.numpy()
        self.labels = self.batch.labels.numpy()

    def set_rows(self, rows: np.ndarray) -> None:
        """Note which (sample, view) each row will hold."""
        self.batch.samples.copy_(torch.from_numpy(rows[:, 0]))
        self.batch.views.copy_(torch.from_numpy(rows[:, 1]))
