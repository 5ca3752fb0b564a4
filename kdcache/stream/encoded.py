"""Images as they lie in the cache, for decoding elsewhere: on the GPU, for example."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class EncodedImages:
    """The image files of a batch, packed into one buffer, and the views to be cut from them.

    They stay in host memory whatever becomes of the batch: that is where decoders, nvJPEG too, take files from.
    Another decoder need not give the pixels that the teacher saw, so nothing here is compared with their hashes.

    Args:
        data: (bytes,) uint8, all files one after the other.
        starts, sizes: (B,) int64; rows that are views of one image share its bytes.
        views: (B, 9) int32, the integers of each view (see FORMAT.md).
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


class EncodedBuffer:
    """Memory for the image files of one batch; grows to the largest batch seen and is reused.

    Args:
        pinned: Whether the memory is page-locked.
    """

    def __init__(self, *, pinned: bool) -> None:
        self._pinned = pinned
        self._memory = torch.empty(0, dtype=torch.uint8, pin_memory=pinned)

    def pack(self, files: Sequence[bytes], repeats: int, views: np.ndarray) -> EncodedImages:
        """Lay files one after the other.

        Args:
            files: One per sample.
            repeats: Rows that share each file.
            views: (B, 9) int32, with B = len(files) * repeats.
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
