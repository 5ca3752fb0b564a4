"""Labels of open shards in one array: those of a batch are one look-up, and memory grows with open shards only."""

from collections.abc import Mapping
from typing import final

import numpy as np

from kdcache.reading.files import _gather
from kdcache.reading.gather import files_of
from kdcache.reading.open_shard import OpenShard

_CLOSED = -(2**62)  # no sample number makes an index of it


@final
class ShardLabels:
    """Finds the labels of rows; keeps a table of the shards that are open. Safe to use from several threads.

    Args:
        starts: (shards + 1,) int64, the first sample of each shard, and the number of samples.
    """

    def __init__(self, starts: np.ndarray) -> None:
        self._starts = starts
        self._known: tuple[Mapping[int, OpenShard], LabelTable] | None = None

    def of(self, rows: np.ndarray, opened: Mapping[int, OpenShard], held: Mapping[int, OpenShard]) -> np.ndarray:
        """Labels of some rows, (n,) int64, -1 where there is none.

        Args:
            rows: (n, 2) int64, sample and view numbers.
            opened: Shards that are open now; the same object as long as nothing changes.
            held: Those of the rows, which may have been closed since.
        """
        known = self._known
        if known is None or known[0] is not opened:
            self._known = known = opened, self._table(opened)
        labels = known[1].take(rows)
        if labels is None:
            labels = self._table(held).take(rows)
            assert labels is not None, "their shards are among these"
        return labels

    def _table(self, shards: Mapping[int, OpenShard]) -> "LabelTable":
        return LabelTable({number: shard.index.labels for number, shard in shards.items()}, self._starts)


@final
class LabelTable:
    """The labels of some shards.

    Args:
        labels: (samples,) integers of each shard, by number.
        starts: As in ShardLabels.
    """

    def __init__(self, labels: Mapping[int, np.ndarray], starts: np.ndarray) -> None:
        self._starts = starts
        self._offsets = np.full(len(starts) - 1, _CLOSED, np.int64)
        sizes, numbers = [len(each) for each in labels.values()], list(labels)
        self._offsets[numbers] = np.cumsum([0, *sizes])[:-1] - starts[numbers]
        self._values = np.concatenate([np.empty(0, np.int64), *labels.values()]).astype(np.int64, copy=False)

    def take(self, rows: np.ndarray) -> np.ndarray | None:
        """Labels of some rows, (n,) int64, or None where a shard of theirs is not among these.

        Args:
            rows: (n, 2) int64, sample and view numbers.
        """
        if _gather is None:
            places = self._offsets[files_of(self._starts, rows)] + rows[:, 0]
            return None if places.min() < 0 else self._values[places]
        labels = np.empty(len(rows), np.int64)
        rows = np.ascontiguousarray(rows, np.int64)
        return labels if _gather.take(rows, self._starts, self._offsets, self._values, labels) else None
