"""How a stream is configured, and how it divides the memory it may take."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from kdcache.errors import UsageError
from kdcache.per_class import check_subset
from kdcache.reading.checks import CheckPolicy
from kdcache.reading.files import Access, ReadMode, choose_access
from kdcache.stream.order import EpochOf, StreamOrder, Tail
from kdcache.stream.pixels import PixelOrigin

ImageForm = Literal["pixels", "encoded", "none"]
_MAX_DEFAULT_THREADS = 8
_DEFAULT_DIVISOR = 4  # of the memory this process may use
# Reading in order takes one shard at a time; a disk wants to be asked for more.
_FEWEST_AHEAD = 4
_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


@dataclass(frozen=True, kw_only=True)
class StreamConfig:
    """How a cache is streamed.

    Args:
        batch_size: Views in a global batch, over all ranks together.
        seed: Of the order.
        shuffle: False reads in the order of the cache.
        window: Shards that are mixed with each other.
        views_per_sample: Views of a sample in one batch.
        epoch_of: ``samples``: every sample once; ``views``: as many views as samples (repeated augmentation).
        tail: What happens to the views that do not fill a batch: drop or pad.
        per_class: Images of each class that are streamed: ``5``, or ``1%`` of them; None for all. See
            kdcache.per_class.
        per_class_seed: Of that draw; None takes `seed`.
        images: ``pixels`` delivers the views, ``encoded`` hands out the image files, ``none`` leaves images out.
        pixels: Where views come from: ``stored`` ones of the cache, or ``replay`` from the images; auto takes stored
            ones where there are any.
        num_threads: Threads that read, decode and replay; None takes the cores this process may use, at most 8.
        num_buffers: Batches in memory, including the one in use.
        memory_budget: Bytes for batch buffers and mapped shards; None takes a quarter of the memory.
        access: One of the modes of files.py, ``map`` or ``read``; auto takes the first that is possible.
        check: Every file's hash before its first use (``full``), that and the checksum of every record each time it is
            read (``records``), hashes soon after first use (``background``), or sizes only (``size``).
        check_pixels: Fraction of views whose pixels are compared with the hash of what the teacher saw.
        require_labels: Refuse samples without a label.
    """

    batch_size: int
    seed: int = 0
    shuffle: bool = True
    window: int = 16
    views_per_sample: int = 1
    epoch_of: EpochOf = "samples"
    tail: Tail = "drop"
    per_class: str | None = None
    per_class_seed: int | None = None
    images: ImageForm = "pixels"
    pixels: PixelOrigin = "auto"
    num_threads: int | None = None
    num_buffers: int = 3
    memory_budget: int | None = None
    access: Access = "auto"
    check: CheckPolicy = "full"
    check_pixels: float = 1 / 64
    require_labels: bool = False

    def __post_init__(self) -> None:
        if self.num_threads is not None and self.num_threads < 1:
            raise ValueError(f"num_threads must be at least 1, got {self.num_threads}")
        if self.num_buffers < 2:
            raise ValueError(f"num_buffers must be at least 2, got {self.num_buffers}")
        if self.pixels not in get_args(PixelOrigin):
            raise ValueError(f"pixels must be auto, stored or replay, got {self.pixels!r}")
        if self.images not in get_args(ImageForm):
            raise ValueError(f"images must be pixels, encoded or none, got {self.images!r}")
        check_subset(self.per_class, self.per_class_seed)

    @property
    def threads(self) -> int:
        """Threads that will work."""
        return self.num_threads or min(len(os.sched_getaffinity(0)), _MAX_DEFAULT_THREADS)

    @property
    def shards_at_once(self) -> int:
        """Shards that are in use at a time."""
        return self.window if self.shuffle else 1

    @property
    def subset_seed(self) -> int:
        """Of the draw of `per_class`."""
        return self.seed if self.per_class_seed is None else self.per_class_seed

    def order(self, shard_sizes: Sequence[int], num_views: int, chosen: np.ndarray | None = None) -> StreamOrder:
        """The order in which these shards are streamed.

        Args:
            shard_sizes: Samples in each.
            num_views: K.
            chosen: Numbers of the samples that `per_class` keeps, ascending; None for all.

        Raises: ValueError for what is impossible with them.
        """
        ends = np.cumsum([0, *shard_sizes])
        sizes = list(shard_sizes) if chosen is None else np.diff(np.searchsorted(chosen, ends)).tolist()
        return StreamOrder(
            shard_sizes=tuple(sizes),
            num_views=num_views,
            batch_size=self.batch_size,
            seed=self.seed,
            shuffle=self.shuffle,
            window=self.window,
            views_per_sample=self.views_per_sample,
            epoch_of=self.epoch_of,
            tail=self.tail,
            subset="" if chosen is None else f"{self.per_class} of each class with seed {self.subset_seed}",
            chosen=chosen,
        )


@dataclass(frozen=True)
class MemoryPlan:
    """What fits.

    Args:
        access: How batches are read.
        max_mapped_bytes: What the mapped shards may take together.
        shards_ahead: Shards of the next window that may be opened while the present one is in use.
        note: Why it is not what one would expect; usually empty.
    """

    access: ReadMode
    max_mapped_bytes: int
    shards_ahead: int
    note: str = ""


def plan_memory(config: StreamConfig, *, buffer_bytes: int, shard_bytes: Sequence[int]) -> MemoryPlan:
    """Divide the memory budget of a stream.

    Args:
        config: The stream.
        buffer_bytes: What the batch buffers take.
        shard_bytes: What each shard takes when it is mapped.

    Raises: UsageError when the buffers alone exceed the budget, or when maps are wanted and a window does not fit.
    """
    mode = choose_access(config.access)
    total = usable_memory() // _DEFAULT_DIVISOR if config.memory_budget is None else config.memory_budget
    left = total - buffer_bytes
    if left < 0:
        raise UsageError(
            f"the batch buffers take {_mib(buffer_bytes)}, memory_budget is {_mib(total)}: allow more, or use smaller "
            "batches or fewer buffers"
        )
    window = min(config.shards_at_once, len(shard_bytes))
    most_ahead = min(max(window, _FEWEST_AHEAD), len(shard_bytes))
    if mode == "read":
        return MemoryPlan("read", 0, most_ahead)
    largest_first = np.sort(np.asarray(shard_bytes, np.int64))[::-1]
    needed = int(largest_first[:window].sum())
    if needed <= left:
        ahead = int((np.cumsum(largest_first[:most_ahead]) <= left - needed).sum())
        everything_fits = int(largest_first.sum()) <= left
        return MemoryPlan(mode, left, most_ahead if everything_fits else ahead)
    problem = (
        f"a window of {window} shards takes {_mib(needed)} mapped, memory_budget leaves {_mib(left)} beside the batch "
        "buffers"
    )
    if config.access != "auto":
        raise UsageError(f"{problem}: allow more, use a smaller window, or access='auto'")
    return MemoryPlan("read", 0, most_ahead, f"{problem}, so it is not mapped")


def usable_memory() -> int:
    """Bytes of memory this process may use: the machine's, or its container's where that is less."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        return min(machine, int(_CGROUP_LIMIT.read_text()))
    except (OSError, ValueError):  # no container, or the word "max"
        return machine


def _mib(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"
