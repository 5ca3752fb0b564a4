"""One batch buffer that is filled again and again, by one thread or by several at once."""

import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from benchmarks.peers.base import Workload

Batch = dict[str, np.ndarray]
Fill = Callable[[Batch, np.ndarray], None]


def order(workload: Workload, *, shuffle: bool, epoch: int) -> np.ndarray:
    """Record numbers of an epoch's whole batches, (batches, B) int64: a fresh permutation for every shuffled epoch."""
    if shuffle:
        numbers = np.random.default_rng(epoch).permutation(workload.num_records)
    else:
        numbers = np.arange(workload.num_records)
    return numbers[: workload.batches * workload.batch_size].reshape(workload.batches, workload.batch_size)


class BatchBuffer:
    """A batch in memory that lasts as long as the loader.

    Args:
        workload: Whose fields and batch size the buffer has.
        num_threads: Threads that each fill an equal part of a batch at the same time, the caller's among them.
    """

    def __init__(self, workload: Workload, num_threads: int) -> None:
        size = workload.batch_size
        fields = workload.fields.items()
        self._batch: Batch = {name: np.zeros((size, *shape), dtype) for name, (dtype, shape) in fields}
        self._batch["label"] = np.zeros(size, np.int64)
        ends = [size * part // num_threads for part in range(num_threads + 1)]
        rows = [slice(first, last) for first, last in itertools.pairwise(ends)]
        self._parts = [(part, {name: values[part] for name, values in self._batch.items()}) for part in rows]
        self._pool = ThreadPoolExecutor(num_threads - 1) if num_threads > 1 else None

    def batches(self, fill: Fill, numbers: np.ndarray) -> Iterator[Batch]:
        """Every row of `numbers` as a batch, in order, always in the same memory.

        Args:
            fill: Copies the records of the given numbers into the given part of the batch.
            numbers: (batches, B) record numbers.
        """
        for row in numbers:
            if self._pool is None:
                fill(self._batch, row)
            else:
                others = [self._pool.submit(fill, part, row[rows]) for rows, part in self._parts[1:]]
                fill(self._parts[0][1], row[self._parts[0][0]])
                for other in others:
                    other.result()
            yield self._batch

    def close(self) -> None:
        """End the threads."""
        if self._pool is not None:
            self._pool.shutdown()
