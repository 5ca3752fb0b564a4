"""What every loader in the streaming comparison is given, and what it must deliver."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Workload:
    """Records made from their numbers, so that any of them can be written and checked anywhere.

    Args:
        name: A, B or C.
        num_records: R.
        batch_size: Records in a batch; the records that do not fill one are dropped.
        fields: {name: (numpy dtype, shape)} of what every record holds beside its label.
        num_threads: Threads or worker processes a loader may use.
        images: Paths of JPEG files for C: record r shows image ``r % len(images)``; empty otherwise.
        replay: For C, what every loader runs on a record's image: (JPEG bytes, view) -> (S, S, 3) uint8. It can be
            pickled.
    """

    name: str
    num_records: int
    batch_size: int
    fields: Mapping[str, tuple[str, tuple[int, ...]]]
    num_threads: int
    images: tuple[Path, ...] = ()
    replay: Callable[[bytes, np.ndarray], np.ndarray] | None = None

    @property
    def batches(self) -> int:
        """Whole batches in an epoch."""
        return self.num_records // self.batch_size

    @property
    def record_bytes(self) -> int:
        """Bytes of the fields of one record."""
        return sum(int(np.prod(shape)) * np.dtype(dtype).itemsize for dtype, shape in self.fields.values())

    def record(self, number: int) -> dict[str, np.ndarray]:
        """The fields of one record: finite noise that no compression shrinks, the number in the first four bytes."""
        record: dict[str, np.ndarray] = {}
        for name, (dtype, shape) in self.fields.items():
            size = int(np.prod(shape)) * np.dtype(dtype).itemsize
            noise = self._noise if np.dtype(dtype).kind in "iu" else self._float_noise[dtype]
            first = number * 64 % (len(noise) - size)
            data = noise[first : first + size].copy()
            data[:4] = np.frombuffer(number.to_bytes(4, "little"), np.uint8)
            record[name] = data.view(dtype).reshape(shape)
        return record

    def label(self, number: int) -> int:
        """A label from which the record can be told."""
        return number

    def image(self, number: int) -> bytes:
        """The JPEG file of a record of C."""
        return self.images[number % len(self.images)].read_bytes()

    def view(self, number: int) -> np.ndarray:
        """The integers of the view of a record of C, int32: see kdcache/cache/FORMAT.md."""
        raise NotImplementedError

    @cached_property
    def _noise(self) -> np.ndarray:
        return np.random.default_rng(0).integers(0, 256, 1 << 24, np.uint8)

    @cached_property
    def _float_noise(self) -> dict[str, np.ndarray]:
        normal = np.random.default_rng(1).standard_normal(1 << 22, np.float32)
        return {dtype: normal.astype(dtype).view(np.uint8) for dtype, _ in self.fields.values()}


class Loader(ABC):
    """One way of reading a workload.

    Attributes:
        name: As in the table.
        files: Whose files it reads, where several loaders share them; None for its own.
        workloads: Names of the workloads it can do.
        orders: Which of ``sequential`` and ``shuffled`` it can do.
        reads_first_in_epoch: False where `open` reads the data already, to compile for example: a cold epoch cannot be
            timed then.
    """

    name: str
    files: str | None = None
    workloads: tuple[str, ...] = ("A", "B")
    orders: tuple[str, ...] = ("sequential", "shuffled")
    reads_first_in_epoch: bool = True

    @abstractmethod
    def versions(self) -> dict[str, str]:
        """Versions of the packages at work. Raises: ImportError where it is not installed."""

    @abstractmethod
    def settings(self, workload: Workload) -> dict[str, Any]:
        """How it is configured, in the words of its own documentation."""

    @abstractmethod
    def write(self, workload: Workload, folder: Path) -> None:
        """Write the workload in the loader's own format into an empty folder; nothing of it is timed."""

    @abstractmethod
    def open(self, workload: Workload, folder: Path, *, shuffle: bool) -> None:
        """Get ready; not timed. Worker processes and mappings that last over epochs are made here."""

    @abstractmethod
    def epoch(self, epoch: int) -> Iterator[Mapping[str, Any]]:
        """Batches of one epoch: fields by name as arrays or tensors (B, *shape), ``label`` (B,), for C also ``pixels``.

        A batch may be overwritten once the next is asked for.
        """

    def close(self) -> None:  # noqa: B027 - most loaders have nothing to release
        """Release what `open` made."""
