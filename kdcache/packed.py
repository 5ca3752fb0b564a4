"""Many small files in one buffer, as extensions take them: one call for all, and no Python object for each."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np


@final
@dataclass(frozen=True)
class PackedFiles:
    """The bytes of some files.

    Args:
        data: (bytes,) uint8, contiguous.
        places: (n, 2) int64, contiguous: offset and size of each file in `data`.
    """

    data: np.ndarray
    places: np.ndarray

    @classmethod
    def of(cls, files: Sequence[bytes]) -> "PackedFiles":
        """Copy files one after the other; a single one is not copied."""
        data = files[0] if len(files) == 1 else b"".join(files)
        return cls(np.frombuffer(data, np.uint8), one_after_another([len(file) for file in files]))

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, number: int) -> bytes:
        """The bytes of one file, a copy."""
        offset, size = self.places[number].tolist()
        return self.data[offset : offset + size].tobytes()


def one_after_another(sizes: Sequence[int] | np.ndarray) -> np.ndarray:
    """(n, 2) int64, offset and size of files of these sizes without gaps."""
    sizes = np.asarray(sizes, np.int64)
    return np.stack([np.cumsum(sizes) - sizes, sizes], axis=1)
