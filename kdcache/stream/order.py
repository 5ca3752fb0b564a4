"""The order of training: a pure function of (seed, epoch, position) for any number of ranks, workers or threads.

Where a stream stands in it is a few integers.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Literal, final, get_args

import numpy as np

from kdcache.errors import CacheMismatchError
from kdcache.stream.epoch_order import EpochOrder, shard_order

Tail = Literal["drop", "pad"]
EpochOf = Literal["samples", "views"]


@final
@dataclass(frozen=True, kw_only=True)
class StreamOrder:
    """Which views of which samples make up every global batch of every epoch.

    Shards are permuted, taken in windows, and the samples of a window permuted together. In epoch e a sample shows
    ``views_per_sample`` of its K views, going round: over K / views_per_sample epochs each view is seen once. The rows
    of an epoch are its samples in order, each with its views side by side; a batch is the next `batch_size` of them.

    Args:
        shard_sizes: Samples that are drawn from each shard, in the order of the manifest.
        num_views: K, views stored of each sample.
        batch_size: Views in a global batch, over all ranks together.
        seed: Any integer.
        shuffle: False reads in the order of the cache.
        window: Shards that are mixed with each other; at least 1.
        views_per_sample: Views of a sample that lie side by side and share one decode. Where they do not divide the
            batch, or a rank's part of it, a sample at the edge is divided too.
        epoch_of: ``samples``: every sample once, with its `views_per_sample` views. ``views``: as many views as there
            are samples, so that an epoch sees 1 / views_per_sample of them, in every epoch others (repeated
            augmentation, arXiv:1902.05509, as DeiT's sampler does it; that one gives the views of a sample to
            different ranks).
        tail: ``drop`` the views that do not fill a batch, or ``pad`` the last batch with the samples that come next,
            from the epoch's beginning after the last one. Every epoch has the same number of batches on every rank
            either way.
        subset: How the samples were chosen, for states and messages; empty where all are drawn.
        chosen: Numbers of the samples that are drawn, ascending; None for all.
    """

    shard_sizes: tuple[int, ...]
    num_views: int
    batch_size: int
    seed: int
    shuffle: bool = True
    window: int = 16
    views_per_sample: int = 1
    epoch_of: EpochOf = "samples"
    tail: Tail = "drop"
    subset: str = ""
    chosen: np.ndarray | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.tail not in ("drop", "pad"):
            raise ValueError(f"tail must be drop or pad, got {self.tail!r}")
        if self.epoch_of not in get_args(EpochOf):
            raise ValueError(f"epoch_of must be samples or views, got {self.epoch_of!r}")
        if self.window < 1:
            raise ValueError(f"window must be at least 1 shard, got {self.window}")
        if not 1 <= self.views_per_sample <= self.num_views:
            raise ValueError(
                f"views_per_sample must be 1 to the {self.num_views} views in the cache, got {self.views_per_sample}"
            )
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}")
        if self.steps_per_epoch == 0:
            raise ValueError(
                f"an epoch of {self.num_rows} views does not fill one batch of {self.batch_size}; use a batch size of "
                f"at most {self.num_rows}"
            )

    @cached_property
    def num_samples(self) -> int:
        """Samples that an epoch draws from."""
        return sum(self.shard_sizes)

    @property
    def num_rows(self) -> int:
        """Views in an epoch before the remainder is dropped or padded."""
        return self.num_samples * (self.views_per_sample if self.epoch_of == "samples" else 1)

    @property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch."""
        return self.num_rows // self.batch_size if self.tail == "drop" else -(-self.num_rows // self.batch_size)

    def num_reached(self, steps: int) -> int:
        """How many samples, in the order of an epoch, its first `steps` batches show: all of them at most."""
        return min(-(-steps * self.batch_size // self.views_per_sample), self.num_samples)

    @property
    def description(self) -> str:
        """What besides seed and batch size decides the order, for states and messages."""
        how = f"windows of {self.window} shards" if self.shuffle else "the cache's order"
        length = "" if self.epoch_of == "samples" else " in epochs of as many views as samples"
        whole = f"{how}, {self.views_per_sample} of {self.num_views} views per sample{length}, {self.tail} the tail"
        return f"{whole}, {self.subset}" if self.subset else whole

    def epoch(self, epoch: int) -> EpochOrder:
        """Numbers of the samples in the order of an epoch, made where asked for; they count through the shards."""
        return EpochOrder(
            self.shard_sizes,
            seed=self.seed,
            epoch=epoch,
            window=self.window,
            shuffle=self.shuffle,
            chosen=self.chosen,
        )

    def shards(self, epoch: int) -> np.ndarray:
        """Numbers of all shards in the order of an epoch: the first `window` are mixed with each other, and so on."""
        return shard_order(len(self.shard_sizes), seed=self.seed, epoch=epoch, shuffle=self.shuffle)

    def rows_of_rank(self, world_size: int) -> int:
        """Views in one rank's part of a global batch. Raises: ValueError when it does not divide among the ranks."""
        if self.batch_size % world_size:
            raise ValueError(
                f"a global batch of {self.batch_size} views does not divide among {world_size} ranks; choose a batch "
                "size that does"
            )
        return self.batch_size // world_size

    def batch(self, order: EpochOrder, *, epoch: int, step: int, rank: int = 0, world_size: int = 1) -> np.ndarray:
        """One of what `batches` gives."""
        return self.batches(order, epoch=epoch, steps=range(step, step + 1), rank=rank, world_size=world_size)[0]

    def batches(self, order: EpochOrder, *, epoch: int, steps: range, rank: int = 0, world_size: int = 1) -> np.ndarray:
        """One rank's part of some global batches.

        Args:
            order: What `epoch` gave for this epoch.
            epoch, steps: Which global batches, both counted from 0.
            rank, world_size: Which slice of each; the batch must divide evenly.

        Returns: (len(steps), batch_size / world_size, 2) int64: sample number and view number of each row. Views of one
            sample are adjacent.
        Raises: ValueError when the batch does not divide among the ranks.
        """
        share = self.rows_of_rank(world_size)
        firsts = np.asarray(steps, np.int64) * self.batch_size + rank * share
        places, of_sample = np.divmod(firsts[:, None] + np.arange(share), self.views_per_sample)
        samples = order[places % len(order)]
        views = (epoch * self.views_per_sample + of_sample + samples) % self.num_views
        return np.stack([samples, views], axis=-1)


@final
@dataclass(frozen=True)
class StreamState:
    """A position between two global batches.

    Args:
        cache: sha256 of the cache's manifest.
        seed: Of the order.
        epoch: From 0.
        position: Views of this epoch that all ranks together have consumed.
        order: StreamOrder.description.
    """

    cache: str
    seed: int
    epoch: int
    position: int
    order: str

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for checkpoints."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "StreamState":
        """Read what as_dict gave.

        Raises: ValueError for anything else.
        """
        try:
            return cls(**values)
        except TypeError:
            raise ValueError(f"not the state of a stream: {values!r}") from None

    def step(self, cache: str, order: StreamOrder) -> int:
        """The next global batch of the epoch, after checking that the state belongs to this cache in this order.

        Raises: CacheMismatchError naming what differs and both values.
        """
        if self.cache != cache:
            raise CacheMismatchError(
                f"the state was saved with cache {self.cache[:12]}…, this one is {cache[:12]}…; resume with the same "
                "cache"
            )
        if self.seed != order.seed:
            raise CacheMismatchError(f"the state was saved with seed {self.seed}, this stream has seed {order.seed}")
        if self.order != order.description:
            raise CacheMismatchError(
                f"the state was saved in another order: {self.order}; this stream has {order.description}; resume with "
                "the settings it was saved with"
            )
        if self.position % order.batch_size:
            raise CacheMismatchError(
                f"the state stands at view {self.position}, which is not a multiple of the {order.batch_size} views of "
                "a global batch; resume with the batch size it was saved with"
            )
        return self.position // order.batch_size


def sample_starts(rows: np.ndarray) -> np.ndarray:
    """Where each run of rows of one sample begins, int64, in a non-empty part of a batch (n, 2)."""
    return np.flatnonzero(np.diff(rows[:, 0], prepend=-1))


def epoch_order(shard_sizes: Sequence[int], *, seed: int, epoch: int, window: int, shuffle: bool = True) -> np.ndarray:
    """Sample numbers in the order of one epoch; arguments as in StreamOrder."""
    return EpochOrder(shard_sizes, seed=seed, epoch=epoch, window=window, shuffle=shuffle).whole()


def rank_correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Spearman's correlation of the positions that two orders give to the same samples, -1 to 1."""
    if len(first) < 2:
        return 0.0
    positions = np.argsort(first, kind="stable"), np.argsort(second, kind="stable")
    return float(np.corrcoef(*positions)[0, 1])
