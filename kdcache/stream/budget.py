"""How much memory a stream may take, and what that means for mapping and reading ahead."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kdcache.errors import UsageError
from kdcache.stream.files import Access, Way, choose_access

_DEFAULT_SHARE = 4
# Reading in order takes one shard at a time; a disk wants to be asked for more.
_FEWEST_AHEAD = 4
_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


@dataclass(frozen=True)
class MemoryPlan:
    """What fits.

    Args:
        access: How batches are read.
        max_mapped_bytes: What the mapped shards may take together.
        shards_ahead: Shards of the next window that may be opened while the present one is in use.
        note: Why it is not what one would expect, for `kdcache bench`; usually empty.
    """

    access: Way
    max_mapped_bytes: int
    shards_ahead: int
    note: str = ""


def plan_memory(
    *, budget: int | None, buffer_bytes: int, shard_bytes: Sequence[int], window: int, access: Access
) -> MemoryPlan:
    """Divide a budget.

    Args:
        budget: Bytes for batch buffers and mapped shards; None takes a quarter of the memory this process may use.
        buffer_bytes: What the batch buffers take.
        shard_bytes: What each shard takes when it is mapped.
        window: Shards in use at a time.
        access: What the user wants.

    Raises: UsageError when the buffers alone exceed the budget, or when maps are wanted and a window does not fit.
    """
    way = choose_access(access)
    total = usable_memory() // _DEFAULT_SHARE if budget is None else budget
    left = total - buffer_bytes
    if left < 0:
        raise UsageError(
            f"the batch buffers take {_mib(buffer_bytes)}, memory_budget is {_mib(total)}: allow more, or use smaller "
            "batches or fewer buffers"
        )
    window = min(window, len(shard_bytes))
    most_ahead = min(max(window, _FEWEST_AHEAD), len(shard_bytes))
    if way == "read":
        return MemoryPlan("read", 0, most_ahead)
    largest_first = np.sort(np.asarray(shard_bytes, np.int64))[::-1]
    needed = int(largest_first[:window].sum())
    if needed <= left:
        ahead = int((np.cumsum(largest_first[:most_ahead]) <= left - needed).sum())
        everything_fits = int(largest_first.sum()) <= left
        return MemoryPlan(way, left, most_ahead if everything_fits else ahead)
    problem = (
        f"a window of {window} shards takes {_mib(needed)} mapped, memory_budget leaves {_mib(left)} beside the batch "
        "buffers"
    )
    if access != "auto":
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
