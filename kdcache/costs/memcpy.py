"""The yardstick of every loader: one thread, libc's memcpy, as many bytes as a batch has."""

import time

import numpy as np

_SMALLEST_SOURCE_BYTES = 256 << 20
_LARGEST_SOURCE_BYTES = 1 << 30


class Memcpy:
    """Copies blocks of a source that no cache holds into a ring of buffers, as a loader fills its batches.

    Args:
        batch_bytes: Bytes of a batch.
        num_buffers: Batches in the ring.
    """

    def __init__(self, batch_bytes: int, num_buffers: int) -> None:
        blocks = max(2, min(_LARGEST_SOURCE_BYTES, max(_SMALLEST_SOURCE_BYTES, 8 * batch_bytes)) // batch_bytes)
        self._source = np.random.default_rng(0).integers(0, 256, (blocks, batch_bytes), np.uint8)
        self._ring = [np.zeros(batch_bytes, np.uint8) for _ in range(num_buffers)]
        self._next = 0

    def bytes_per_s(self, seconds: float = 0.3) -> float:
        """Copy for a while and say how fast it went."""
        copied, began = 0, time.perf_counter()
        while (passed := time.perf_counter() - began) < seconds or not copied:
            buffer = self._ring[self._next % len(self._ring)]
            np.copyto(buffer, self._source[self._next % len(self._source)])  # one contiguous block: a memcpy
            self._next += 1
            copied += buffer.nbytes
        return copied / passed
