"""The order of one epoch, made a window of shards at a time: it takes memory for shards and one window, not samples."""

from collections.abc import Sequence
from typing import final

import numpy as np

from kdcache.seeds import derived_bits


@final
class EpochOrder:
    """Which sample stands at each place of an epoch; the last window that was looked at is kept.

    Shards are permuted, taken in windows, and the samples of a window permuted together. Places may be asked for in
    any order, ascending ones make every window once. One thread at a time may use it.

    Args:
        shard_sizes: Samples in each shard.
        seed, epoch, window, shuffle: As in StreamOrder.
        chosen: Numbers of the samples that are drawn, ascending; None for all.
    """

    def __init__(
        self,
        shard_sizes: Sequence[int],
        *,
        seed: int,
        epoch: int,
        window: int,
        shuffle: bool = True,
        chosen: np.ndarray | None = None,
    ) -> None:
        self._seed, self._epoch, self._shuffle, self._chosen = seed, epoch, shuffle, chosen
        self._sizes = np.asarray(shard_sizes, np.int64)
        self._firsts = np.cumsum(self._sizes) - self._sizes
        self._shards = shard_order(len(self._sizes), seed=seed, epoch=epoch, shuffle=shuffle)
        self._window = window
        self._starts = np.concatenate([[0], np.cumsum(self._sizes[self._shards])])[::window]
        self._total = int(self._sizes.sum())
        self._known: tuple[int, np.ndarray] | None = None

    def __len__(self) -> int:
        return self._total

    def __getitem__(self, places: np.ndarray) -> np.ndarray:
        """Sample numbers at these places, int64 of the same shape; places are 0 to len - 1."""
        samples = self._shuffled(places) if self._shuffle else np.array(places, np.int64)
        return samples if self._chosen is None else self._chosen[samples]

    def _shuffled(self, places: np.ndarray) -> np.ndarray:
        if np.size(places):
            # Most batches lie in one window: to look for that of each place would take longer than all the rest.
            ends = [np.min(places), np.max(places)]
            first, last = (np.searchsorted(self._starts, ends, side="right") - 1).tolist()
            if first == last:
                return self._samples_of(first)[places - self._starts[first]]
        windows = np.searchsorted(self._starts, places, side="right") - 1
        samples = np.empty(np.shape(places), np.int64)
        for window in np.unique(windows).tolist():
            own = windows == window
            samples[own] = self._samples_of(window)[places[own] - self._starts[window]]
        return samples

    def whole(self) -> np.ndarray:
        """Sample numbers at all places, (len,) int64."""
        if not self._shuffle:
            samples = np.arange(self._total)
        else:
            windows = range(-(-len(self._shards) // self._window))
            samples = np.concatenate([np.empty(0, np.int64), *(self._samples_of(window) for window in windows)])
        return samples if self._chosen is None else self._chosen[samples]

    def _samples_of(self, window: int) -> np.ndarray:
        known = self._known
        if known is not None and known[0] == window:
            return known[1]
        shards = self._shards[window * self._window : (window + 1) * self._window]
        firsts, sizes = self._firsts[shards].tolist(), self._sizes[shards].tolist()
        samples = np.concatenate([np.arange(first, first + size) for first, size in zip(firsts, sizes, strict=True)])
        # Place p has bits number p of the epoch wherever reading begins: the generator counts, it does not walk.
        bits = derived_bits(len(samples), "samples", self._seed, self._epoch, skip=int(self._starts[window]))
        samples = samples[ranking(bits)]
        self._known = window, samples
        return samples


def shard_order(num_shards: int, *, seed: int, epoch: int, shuffle: bool = True) -> np.ndarray:
    """Shard numbers in the order of one epoch, int64."""
    if not shuffle:
        return np.arange(num_shards)
    return ranking(derived_bits(num_shards, "shards", seed, epoch))


def ranking(bits: np.ndarray) -> np.ndarray:
    """What a stable argsort gives, several times faster: only equal numbers, which hardly occur, need a stable one."""
    found = np.argsort(bits)
    ranked = bits[found]
    return found if (ranked[1:] > ranked[:-1]).all() else np.argsort(bits, kind="stable")
