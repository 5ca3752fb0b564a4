"""Whether the files of a batch are still what was opened: one call without the interpreter lock for all of them."""

from collections.abc import Mapping, Sequence
from typing import final

import numpy as np

from kdcache.reading.files import Identity, _gather
from kdcache.reading.open_shard import OpenShard

_WORD = 2**64  # times before 1970 are negative


@final
class UnchangedFiles:
    """Compares the identities of files; keeps a table of the shards that are open. Safe to use from several threads.

    Args:
        starts: (shards + 1,) int64, the first sample of each shard, and the number of samples.
        parts: Of each shard.
    """

    def __init__(self, starts: np.ndarray, parts: Sequence[str]) -> None:
        self._starts, self._parts = starts, parts
        self._known: tuple[Mapping[int, OpenShard], np.ndarray, np.ndarray] | None = None

    def hold(self, opened: Mapping[int, OpenShard], rows: np.ndarray) -> bool:
        """Whether all files of some rows are as they were; False where that is not known without a closer look.

        Args:
            opened: Shards that are open; the same object as long as nothing changes.
            rows: (n, 2) int64, sample and view numbers.
        """
        if _gather is None or not self._parts:  # a stream of labels alone has no files
            return not self._parts
        known = self._known
        if known is None or known[0] is not opened:
            self._known = known = opened, *self._table(opened)
        return _gather.are_unchanged(np.ascontiguousarray(rows, np.int64), self._starts, known[1], known[2])

    def forget(self) -> None:
        """Something was renewed: the table is made again."""
        self._known = None

    def _table(self, opened: Mapping[int, OpenShard]) -> tuple[np.ndarray, np.ndarray]:
        size = (len(self._starts) - 1, len(self._parts))
        descriptors = np.full(size, -1, np.int64)
        identities = np.empty((*size, len(Identity._fields)), np.uint64)
        for number, shard in opened.items():
            files = [shard.files[part] for part in self._parts]
            descriptors[number] = [file.descriptor for file in files]
            identities[number] = [[value % _WORD for value in file.identity] for file in files]
        return descriptors, identities
