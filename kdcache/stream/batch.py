"""A batch, and the reused buffers it lives in."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import final

import numpy as np
import torch
from torch import Tensor

from kdcache.cache.column import Column
from kdcache.cache.facts import ViewFacts
from kdcache.errors import UsageError
from kdcache.pixels import normalize_pixels
from kdcache.stream.targets import PackedTargets, field_dtype


@final
@dataclass(frozen=True)
class EncodedImages:
    """The image files of a batch, packed into one buffer, and the views to be cut from them.

    They stay in host memory whatever becomes of the batch: that is where decoders, nvJPEG too, take files from.
    Another decoder need not give the pixels that the teacher saw, so nothing here is compared with their hashes.

    Args:
        data: (bytes,) uint8, all files one after the other.
        starts, sizes: (B,) int64; rows that are views of one image share its bytes.
        views: (B, F) int32, the integers of each view (see FORMAT.md).
    """

    data: Tensor
    starts: Tensor
    sizes: Tensor
    views: Tensor

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, row: int) -> Tensor:
        """The file of one row, (size,) uint8, without a copy."""
        start = int(self.starts[row])
        return self.data[start : start + int(self.sizes[row])]

    def clone(self) -> "EncodedImages":
        """A copy in memory of its own."""
        return EncodedImages(self.data.clone(), self.starts.clone(), self.sizes.clone(), self.views.clone())


@final
class EncodedBuffer:
    """Memory for the image files of one batch; grows to the largest batch seen and is reused.

    Args:
        pinned: Whether the memory is page-locked.
    """

    def __init__(self, *, pinned: bool) -> None:
        self._pinned = pinned
        self._memory = torch.empty(0, dtype=torch.uint8, pin_memory=pinned)

    def pack(self, files: Sequence[bytes], repeats: np.ndarray, views: np.ndarray) -> EncodedImages:
        """Lay files one after the other.

        Args:
            files: One for each run of rows of one sample.
            repeats: Rows that share each file, (len(files),) int64; B together.
            views: (B, F) int32.
        """
        sizes = np.array([len(file) for file in files], np.int64)
        ends = np.cumsum(sizes)
        total = int(ends[-1]) if len(ends) else 0
        if total > len(self._memory):
            self._memory = torch.empty(total + total // 8, dtype=torch.uint8, pin_memory=self._pinned)
        packed = self._memory.numpy()
        for file, end in zip(files, ends.tolist(), strict=True):
            packed[end - len(file) : end] = np.frombuffer(file, np.uint8)
        starts, lengths = np.repeat(ends - sizes, repeats), np.repeat(sizes, repeats)
        return EncodedImages(
            self._memory[:total], torch.from_numpy(starts), torch.from_numpy(lengths), torch.from_numpy(views)
        )


@final
@dataclass(frozen=True)
class Batch:
    """Images, labels and targets, joined by key.

    A batch that comes straight from a loader lies in buffers that the next batch will overwrite: use it before asking
    for the next, or `clone` it.

    Args:
        labels: (B,) int64, -1 where unlabelled.
        targets: By column name.
        samples: (B,) int64, sample numbers through all shards of the cache.
        views: (B,) int64, view numbers.
        pixels: (B, S, S, 3) uint8, the views the teacher saw; None if the stream delivers no pixels.
        encoded: The image files, if the stream delivers those.
        facts: How the views were made; holds mean and std.
    """

    labels: Tensor
    targets: dict[str, PackedTargets]
    samples: Tensor
    views: Tensor
    pixels: Tensor | None = None
    encoded: EncodedImages | None = None
    facts: ViewFacts | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def images(self) -> Tensor:
        """Normalised model input, (B, 3, S, S) float32, with the mean and std of the teacher.

        Raises: UsageError if the stream delivers no pixels.
        """
        return self.normalized(slice(None))

    def normalized(self, rows: slice) -> Tensor:
        """Some rows of `images`. Raises: UsageError if the stream delivers no pixels."""
        if self.pixels is None or self.facts is None:
            raise UsageError("this stream delivers no pixels; open it with StreamConfig(images='pixels')")
        return normalize_pixels(self.pixels[rows], mean=self.facts.mean, std=self.facts.std)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "Batch":
        """The same batch on another device, targets still packed; itself if it is there already. `encoded` stays.

        Args:
            device: Where to.
            non_blocking: Do not wait for the copies; see `kdcache.stream.device`, which knows when they are done.
        """
        device = torch.device(device)
        if self.labels.device == device:
            return self
        return self.mapped(lambda values: values.to(device, non_blocking=non_blocking))

    def clone(self) -> "Batch":
        """A copy in memory of its own."""
        return replace(self.mapped(Tensor.clone), encoded=None if self.encoded is None else self.encoded.clone())

    def mapped(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        """The same batch with every tensor that moves to a device changed."""
        return replace(
            self,
            labels=change(self.labels),
            samples=change(self.samples),
            views=change(self.views),
            targets={name: each.mapped(change) for name, each in self.targets.items()},
            pixels=None if self.pixels is None else change(self.pixels),
        )

    def tensors(self) -> list[Tensor]:
        """Every tensor that moves to a device with the batch."""
        fields = [values for each in self.targets.values() for values in each.fields.values()]
        return [self.labels, self.samples, self.views, *fields, *([] if self.pixels is None else [self.pixels])]


@final
class BatchBuffers:
    """Memory for one batch, allocated once and filled again and again: fresh pages would cost more than the copy.

    Args:
        batch_size: B, views on this rank.
        columns: Columns to read.
        facts: How the views were made; None without pixels.
        pinned: Whether the memory is page-locked, for copies to an accelerator.
        with_pixels: Whether there is room for pixels.
    """

    def __init__(
        self,
        batch_size: int,
        columns: Sequence[Column],
        facts: ViewFacts | None,
        *,
        pinned: bool,
        with_pixels: bool = True,
    ) -> None:
        targets: dict[str, PackedTargets] = {}
        self.fields: dict[str, list[np.ndarray]] = {}
        for column in columns:
            tensors: dict[str, Tensor] = {}
            packed = column.make_codec().packed
            self.fields[column.name] = []
            for field in column.layout().fields:
                tensor = self._new((batch_size, *field.shape), field_dtype(field, packed), pinned)
                tensors[field.name] = tensor
                # Bytes first: numpy has no bfloat16.
                self.fields[column.name].append(tensor.view(torch.uint8).view(batch_size, field.size_bytes).numpy())
            targets[column.name] = PackedTargets(column, tensors)
        pixels = None
        if with_pixels and facts is not None:
            pixels = self._new((batch_size, facts.size, facts.size, 3), torch.uint8, pinned)
        self.batch = Batch(
            labels=self._new((batch_size,), torch.int64, pinned),
            targets=targets,
            samples=self._new((batch_size,), torch.int64, pinned),
            views=self._new((batch_size,), torch.int64, pinned),
            pixels=pixels,
            facts=facts,
        )
        self.labels = self.batch.labels.numpy()
        self._samples, self._views = self.batch.samples.numpy(), self.batch.views.numpy()
        self._encoded = EncodedBuffer(pinned=pinned)

    @property
    def pixels(self) -> np.ndarray:
        """(B, S, S, 3) uint8 to be filled."""
        assert self.batch.pixels is not None
        return self.batch.pixels.numpy()

    def set_rows(self, rows: np.ndarray) -> None:
        """Note which (sample, view) each row will hold."""
        self._samples[:] = rows[:, 0]
        self._views[:] = rows[:, 1]

    def set_encoded(self, files: Sequence[bytes], repeats: np.ndarray, views: np.ndarray) -> None:
        """Take the image files of the batch; arguments as in EncodedBuffer.pack."""
        self.batch = replace(self.batch, encoded=self._encoded.pack(files, repeats, views))

    def _new(self, shape: tuple[int, ...], dtype: torch.dtype, pinned: bool) -> Tensor:
        size = int(np.prod(shape)) * dtype.itemsize
        if pinned:
            return torch.empty(shape, dtype=dtype, pin_memory=True)
        # numpy asks the system for huge pages and torch does not; zeros now, so that no page is fresh later.
        memory = np.empty(size, np.uint8)
        memory.fill(0)
        return torch.from_numpy(memory).view(dtype).view(shape)
